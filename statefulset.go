package director

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// StatefulSet is what is known of one Kubernetes StatefulSet. Its pods are named NAME-ORDINAL, with ordinals from Start
// to Start+Replicas-1; any other ordinal will not come back.
type StatefulSet struct {
	Name string
	// Start is the first ordinal, 0 unless spec.ordinals says otherwise, and Replicas how many pods the set wants.
	Start, Replicas int
	// Termination is how long a pod that is being deleted may go on serving at most: its termination grace period.
	Termination time.Duration
}

// pod names the pod of an ordinal.
func (s StatefulSet) pod(ordinal int) string { return s.Name + "-" + strconv.Itoa(ordinal) }

// StatefulSetOf splits the name of a StatefulSet's pod. It cannot tell a name that only looks like one.
func StatefulSetOf(pod string) (set string, ordinal int, ok bool) {
	i := strings.LastIndexByte(pod, '-')
	if i < 1 {
		return "", 0, false
	}
	ordinal, err := strconv.Atoi(pod[i+1:])
	if err != nil || pod[i+1:] != strconv.Itoa(ordinal) {
		return "", 0, false // "-007" and "-+7" are nobody's ordinals
	}
	return pod[:i], ordinal, true
}

// membership is what the known StatefulSets say of a backend.
type membership uint8

const (
	unclaimed membership = iota // no set that is known has a pod of this name
	wanted
	unwanted
)

// claim returns what the sets say of the backend of that name, and its set unless it is unclaimed.
func claim(sets []StatefulSet, name string) (membership, StatefulSet) {
	prefix, ordinal, ok := StatefulSetOf(name)
	if !ok {
		return unclaimed, StatefulSet{}
	}
	for _, s := range sets {
		switch {
		case s.Name != prefix:
		case ordinal >= s.Start && ordinal < s.Start+s.Replicas:
			return wanted, s
		default:
			return unwanted, s
		}
	}
	return unclaimed, StatefulSet{}
}

// sortedSets returns a copy that is sorted by name.
func sortedSets(sets []StatefulSet) []StatefulSet {
	sets = slices.Clone(sets)
	slices.SortFunc(sets, func(a, b StatefulSet) int { return cmp.Compare(a.Name, b.Name) })
	return sets
}
