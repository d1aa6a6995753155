package store

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"

	director "github.com/k-web-s/go-dovecot-director"
)

// vanishing is a database in which the rows of some users are in the way of an insert, and are deleted before they can be looked at,
// each as often as it says. Then the mailbox of one user is gone too.
type vanishing struct {
	database
	inTheWay map[string]int
	gone     string
}

var errGone = errors.New("no such mailbox")

func (v *vanishing) insert(_ context.Context, rows []director.Row) (map[string]bool, error) {
	written := map[string]bool{}
	for _, r := range rows {
		if r.User == v.gone && v.inTheWay[r.User] == 0 {
			return nil, errGone
		}
	}
	for _, r := range rows {
		if v.inTheWay[r.User]--; v.inTheWay[r.User] < 0 {
			written[r.User] = true
		}
	}
	return written, nil
}

func (v *vanishing) read(context.Context, []string) (map[string]director.Mapping, error) {
	return nil, nil
}

func (v *vanishing) explain(err error) (kind, error) { return refused, err }

// TestARowThatVanishesIsTriedAgain deletes rows between the insert that they are in the way of and the look at them.
func TestARowThatVanishesIsTriedAgain(t *testing.T) {
	insert := func(v *vanishing) (Inserted, error) {
		rows := []director.Row{{User: "ada"}, {User: "bob"}, {User: "cy"}, {User: "dee"}}
		return newDB(v, "test", 1, 1, patient, slog.New(slog.DiscardHandler)).Insert(t.Context(), rows)
	}
	done, err := insert(&vanishing{inTheWay: map[string]int{"bob": 1, "cy": 2, "dee": 1}, gone: "dee"})
	if err != nil || done.Written != 3 || !slices.Equal(done.Refused, []string{"dee"}) || len(done.Kept) != 0 {
		t.Errorf("%+v, %v", done, err)
	}
	if done, err := insert(&vanishing{inTheWay: map[string]int{"bob": insertTries}}); err == nil || done.Written != 3 {
		t.Errorf("for ever: %+v, %v", done, err)
	}
}
