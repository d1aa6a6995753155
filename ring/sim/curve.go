package sim

// A curve says how active people are in each hour of a day. office is how a mailbox provider's day looks: quiet at night, two
// humps, a long evening.
var (
	flat   = []float64{1}
	office = []float64{2, 1, 1, 1, 1, 2, 4, 7, 10, 12, 12, 11, 9, 10, 11, 11, 10, 9, 8, 7, 7, 6, 5, 3}
)

// steps is how fine curves are inverted.
const steps = 1 << 12

// curve turns activity into time. Activity runs at 1 a day on average, faster when people are active.
type curve struct {
	at  [steps + 1]float64 // activity at a time of day, both as parts of a day
	inv [steps + 1]float64 // time of day at an activity
}

// newCurve makes a curve of weights for equal parts of a day.
func newCurve(weights []float64) *curve {
	c := &curve{}
	total := 0.0
	for _, w := range weights {
		total += w
	}
	for i := range steps {
		w := weights[i*len(weights)/steps]
		c.at[i+1] = c.at[i] + w/total*float64(len(weights))/steps
	}
	for i := range c.at {
		c.at[i] /= c.at[steps] // of rounding
	}
	at := 0
	for i := range c.inv {
		target := float64(i) / steps
		for at < steps-1 && c.at[at+1] < target {
			at++
		}
		c.inv[i] = float64(at) / steps
		if rise := c.at[at+1] - c.at[at]; rise > 0 {
			c.inv[i] += min(1, max(0, (target-c.at[at])/rise)) / steps
		}
	}
	return c
}

func between(table *[steps + 1]float64, x float64) float64 {
	i := min(int(x*steps), steps-1)
	return table[i] + (table[i+1]-table[i])*(x*steps-float64(i))
}

// after returns the moment at which so much activity has passed since t, both counted from midnight.
func (c *curve) after(t moment, activity float64) moment {
	activity += between(&c.at, float64(t%day)/float64(day))
	days := float64(int(activity))
	return max(t, t-t%day+moment((days+between(&c.inv, activity-days))*float64(day))) // the tables are not quite each other's inverse
}
