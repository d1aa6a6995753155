package kubernetes_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/cluster"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
	"github.com/k-web-s/go-dovecot-director/store/pgtest"
)

// The two sets of rights that are shipped.
const (
	all     = "overlays/example"
	minimal = "overlays/minimal-rbac"
)

// results is the table that is printed in the end.
var results struct {
	sync.Mutex
	rows []string
}

func TestMain(m *testing.M) {
	code := m.Run()
	if len(results.rows) > 0 {
		slices.Sort(results.rows)
		w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "scenario\tusers\tmoved\texpected\twaited\tmedian s\tmax s\ton two backends")
		for _, row := range results.rows {
			fmt.Fprintln(w, row)
		}
		w.Flush()
	}
	os.Exit(code)
}

// account waits until everybody has a session again, and holds the scenario to its promise: the users that moved are
// those that had to, everybody is where the table says, nobody was turned away for good, and nobody was on two backends.
func (s *site) account(name string, before map[string]string, had []string) (after map[string]string) {
	s.t.Helper()
	s.calm(s.t, patience)
	s.stop()
	after = s.rows()
	var moved []string
	ways := map[string]int{}
	for user, backend := range before {
		if after[user] != backend {
			moved = append(moved, user)
			ways[backend+" -> "+after[user]]++
		}
	}
	slices.Sort(moved)
	if !slices.Equal(moved, had) {
		s.t.Errorf("%d users moved, expected %d:\n%v", len(moved), len(had), ways)
	}
	if moves := s.moves(); len(moves) != len(moved) {
		s.t.Errorf("the directors tell of %d moves, for %d users that are elsewhere", len(moves), len(moved))
	}
	for _, fault := range s.wrong() {
		s.t.Error(fault)
	}
	waits := s.waited()
	median, longest := time.Duration(0), time.Duration(0)
	if n := len(waits); n > 0 {
		median, longest = waits[n/2], waits[n-1]
	}
	for _, way := range slices.Sorted(maps.Keys(ways)) {
		s.t.Logf("%s: %d users", way, ways[way])
	}
	results.Lock()
	defer results.Unlock()
	results.rows = append(results.rows, fmt.Sprintf("%s\t%d\t%d\t%d\t%d\t%.1f\t%.1f\t%d",
		name, len(before), len(moved), len(had), len(waits), median.Seconds(), longest.Seconds(), s.seenOnTwo()))
	return after
}

// moves are what the directors say that they did, each user's way once: two that decide the same at a time both say so.
func (s *site) moves() map[string]bool {
	moves := map[string]bool{}
	for _, d := range s.directors {
		for line := range strings.Lines(d.Log()) {
			if _, move, ok := strings.Cut(line, "user moved from a lost backend"); ok {
				move, _, _ = strings.Cut(move, " service=")
				moves[move] = true
			}
		}
	}
	return moves
}

// pod names one by its ordinal.
func pod(n int) string { return fmt.Sprintf("%s-%d", service, n) }

// TestLife follows a StatefulSet through what happens to one.
func TestLife(t *testing.T) {
	w := &world{cluster: cluster.Start(t), database: pgtest.Start(t)}
	t.Run("side by side", func(t *testing.T) {
		for name, scenario := range map[string]struct {
			plan plan
			run  func(*site, map[string]string) (moved []string)
		}{
			"scale 3 to 5":                             {plan{overlay: all, replicas: 3}, scaleUp},
			"scale 3 to 5, Endpoints only":             {plan{overlay: minimal, replicas: 3}, scaleUp},
			"scale 5 to 3":                             {plan{overlay: all, replicas: 5}, scaleDown},
			"scale 5 to 3, Endpoints only":             {plan{overlay: minimal, replicas: 5, settings: []string{"--restart-grace", "30s"}}, scaleDown},
			"rolling restart of 5":                     {plan{overlay: all, replicas: 5}, rollingRestart},
			"rolling restart of 5, Endpoints only":     {plan{overlay: minimal, replicas: 5}, rollingRestart},
			"rolling restart of 5 and the directors":   {plan{overlay: all, replicas: 5}, rollEverything},
			"a pod crash-loops":                        {plan{overlay: all, replicas: 5, settings: []string{"--failover-grace", "2m"}}, crashLoop},
			"a pod not ready for less than its grace":  {plan{overlay: all, replicas: 5, settings: []string{"--failover-grace", "2m"}}, notReady},
			"a pod not ready for more than its grace":  {plan{overlay: all, replicas: 5}, notReadyForLong},
			"a pod not ready for more, Endpoints only": {plan{overlay: minimal, replicas: 5}, notReadyForLong},
			"all pods not ready at once":               {plan{overlay: all, replicas: 5}, allNotReady},
			"Service deleted and created again":        {plan{overlay: all, replicas: 5}, serviceAnew},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				play(t, w, name, scenario.plan, scenario.run)
			})
		}
	})
	// These are felt by all sites of the cluster.
	t.Run("API server away for a minute", func(t *testing.T) {
		play(t, w, "API server away for a minute, a pod restarts", plan{overlay: all, replicas: 3}, apiServerAway)
	})
	t.Run("right taken and given", func(t *testing.T) {
		play(t, w, "right to EndpointSlices taken and given", plan{overlay: all, replicas: 3}, rightTakenAndGiven)
	})
	t.Run("what the tests would see", func(t *testing.T) { twoAtOnceIsSeen(t, w) })
}

func play(t *testing.T, w *world, name string, p plan, run func(*site, map[string]string) (moved []string)) {
	s := newSite(t, w, p)
	defer s.close()
	source := "EndpointSlices"
	if p.overlay == minimal {
		source = "Endpoints"
	}
	s.sees(source + " " + s.namespace)
	before := s.rows()
	s.account(name, before, run(s, before))
}

// scaleUp moves nobody, and new users reach the new pods.
func scaleUp(s *site, _ map[string]string) (moved []string) {
	s.scale(5)
	s.ready(5)
	s.add("new", 60)
	s.calm(s.t, patience)
	rows := s.rows()
	for _, name := range []string{pod(3), pod(4)} {
		if len(on(rows, name)) == 0 {
			s.t.Errorf("no new user reached %s", name)
		}
	}
	return nil
}

// scaleDown moves the users of the pods that go, and evens out: those that stay end up with a third each.
func scaleDown(s *site, before map[string]string) (moved []string) {
	s.scale(3)
	s.ready(3)
	s.calm(s.t, patience)
	rows := s.rows()
	for n := range 3 {
		// Nobody moves off a pod that stays, so one which had more than its third keeps them.
		share, had := len(on(rows, pod(n))), len(on(before, pod(n)))
		if share > had && 3*share > len(rows)*6/5 {
			s.t.Errorf("%s has %d of %d users, %d before", pod(n), share, len(rows), had)
		}
	}
	return on(before, pod(3), pod(4))
}

// rollingRestart moves nobody: all come back to their pod at its new address.
func rollingRestart(s *site, _ map[string]string) (moved []string) {
	pods := s.pods()
	s.restart()
	s.replaced(pods, slices.Collect(maps.Keys(pods))...)
	return nil
}

// rollEverything restarts the directors too.
func rollEverything(s *site, _ map[string]string) (moved []string) {
	pods := s.pods()
	s.restart()
	for range 2 {
		for _, d := range s.directors {
			d.Stop(s.t)
			d.Start(s.t)
		}
	}
	s.replaced(pods, slices.Collect(maps.Keys(pods))...)
	return nil
}

// crashLoop moves nobody: each time the pod is back within its grace.
func crashLoop(s *site, _ map[string]string) (moved []string) {
	victim := s.backend(pod(1))
	for range 4 {
		s.crash(victim)
		s.revive(victim)
	}
	return nil
}

// notReadyForLong moves the users of a pod that has crashed, once its grace is over; they stay when it is back.
func notReadyForLong(s *site, before map[string]string) (moved []string) {
	victim := s.backend(pod(1))
	s.crash(victim)
	s.calm(s.t, patience) // they wait, and move
	s.revive(victim)
	return on(before, victim.Name)
}

// crash ends what is in a pod, and its probe notices.
func (s *site) crash(b *dovecot.Server) {
	s.t.Helper()
	b.Stop()
	s.probe(b.Name, false)
	s.sees("4 backends alive")
}

func (s *site) revive(b *dovecot.Server) {
	s.t.Helper()
	b.Start(s.t)
	s.probe(b.Name, true)
	s.ready(5)
}

// notReady cuts no session; logins to that pod wait.
func notReady(s *site, before map[string]string) (moved []string) {
	victim := pod(2)
	s.probe(victim, false)
	s.sees("4 backends alive")
	for _, d := range s.directors {
		if reply, err := d.Insist(s.t.Context(), on(before, victim)[0]); err != nil || reply.Code != -1 || !strings.HasPrefix(reply.Reason, "in_grace") {
			s.t.Errorf("a user of %s gets %+v, %v", victim, reply, err)
		}
		if reply, err := d.Insist(s.t.Context(), on(before, pod(3))[0]); err != nil || reply.Code != 1 {
			s.t.Errorf("a user of %s gets %+v, %v", pod(3), reply, err)
		}
	}
	s.probe(victim, true)
	s.ready(5)
	return nil
}

// allNotReady is a fault of the probes: everybody waits for longer than the grace of one failing pod.
func allNotReady(s *site, before map[string]string) (moved []string) {
	for n := range 5 {
		s.probe(pod(n), false)
	}
	s.sees("0 backends alive")
	start := time.Now()
	eventually(s.t, patience, "the grace of one failing pod is over", func() error {
		for user := range before {
			if reply, err := s.directors[0].Ask(s.t.Context(), user); err == nil && reply.Code == 1 {
				s.t.Errorf("%s is sent to %s", user, reply.Host)
			}
			break
		}
		if left := 35*time.Second - time.Since(start); left > 0 {
			return fmt.Errorf("%s left", left)
		}
		return nil
	})
	for n := range 5 {
		s.probe(pod(n), true)
	}
	s.ready(5)
	return nil
}

// serviceAnew deletes the Service, by which all backends vanish at once, and creates it again.
func serviceAnew(s *site, _ map[string]string) (moved []string) {
	services := s.client().CoreV1().Services(s.namespace)
	old, err := services.Get(s.t.Context(), service, metav1.GetOptions{})
	s.must(err)
	s.must(services.Delete(s.t.Context(), service, metav1.DeleteOptions{}))
	s.sees("0 backends alive")
	s.createService(old)
	s.ready(5)
	return nil
}

// apiServerAway kills the API server while a pod is away: its users wait, all others log in, new ones too.
func apiServerAway(s *site, before map[string]string) (moved []string) {
	pods := s.pods()
	s.deletePod(pod(1))
	s.sees("2 backends alive")
	s.world.cluster.Kill(cluster.APIServer)
	start := time.Now()
	known, held := on(before, pod(0))[0], on(before, pod(1))[0]
	eventually(s.t, patience, "a minute is over", func() error {
		for i, d := range s.directors {
			if reply, err := d.Insist(s.t.Context(), known); err != nil || reply.Code != 1 {
				s.t.Errorf("director %d answers a known user with %+v, %v", i, reply, err)
			}
			if reply, err := d.Insist(s.t.Context(), fmt.Sprintf("new-%d-%s@example.org", i, time.Since(start))); err != nil || reply.Code != 1 {
				s.t.Errorf("director %d answers a new user with %+v, %v", i, reply, err)
			}
			if reply, err := d.Insist(s.t.Context(), held); err != nil || reply.Code != -1 {
				s.t.Errorf("director %d answers a user of the lost backend with %+v, %v", i, reply, err)
			}
		}
		time.Sleep(time.Second)
		if left := time.Minute - time.Since(start); left > 0 {
			return fmt.Errorf("%s left", left)
		}
		return nil
	})
	s.world.cluster.StartPart(s.t, cluster.APIServer)
	s.world.cluster.Ready(s.t)
	s.replaced(pods, pod(1))
	return nil
}

// rightTakenAndGiven takes the right to EndpointSlices and gives it back, while pods restart. The watch that is open goes
// on without the right.
func rightTakenAndGiven(s *site, _ map[string]string) (moved []string) {
	roles := s.client().RbacV1().Roles(s.namespace)
	granted := s.rights.DeepCopy()
	for _, source := range []string{"Endpoints", "EndpointSlices"} {
		role, err := roles.Get(s.t.Context(), s.rights.Name, metav1.GetOptions{})
		s.must(err)
		role.Rules = granted.Rules
		if source == "Endpoints" {
			role.Rules = slices.DeleteFunc(slices.Clone(granted.Rules), func(r rbacv1.PolicyRule) bool { return slices.Contains(r.Resources, "endpointslices") })
		}
		_, err = roles.Update(s.t.Context(), role, metav1.UpdateOptions{})
		s.must(err)
		for _, name := range []string{pod(0), pod(1)} {
			pods := s.pods()
			s.deletePod(name)
			s.replaced(pods, name)
			s.sees(source + " " + s.namespace)
			s.calm(s.t, patience)
		}
	}
	return nil
}

// twoAtOnceIsSeen holds that these tests would notice users on two backends: with a wait that is shorter than a pod goes
// on serving after it was deleted, where its end cannot be seen, that is what comes of it.
func twoAtOnceIsSeen(t *testing.T, w *world) {
	s := newSite(t, w, plan{overlay: minimal, replicas: 3, lingers: "20s", settings: []string{"--restart-grace", "1s"}})
	defer s.close()
	s.deletePod(pod(1))
	eventually(t, patience, "users on two backends", func() error {
		if s.seenOnTwo() == 0 {
			return errors.New("none was seen")
		}
		return nil
	})
}
