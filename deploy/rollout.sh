#!/bin/sh
# Upgrades the pods of a StatefulSet of Dovecot backends one at a time, from the highest ordinal down. The gate is the StatefulSet's
# spec.updateStrategy.rollingUpdate.partition: pods below it keep the revision that they have.
#
#	rollout.sh close STATEFULSET       close the gate; then change the StatefulSet, and no pod restarts
#	rollout.sh run STATEFULSET [--evacuate] [--rate N | --by DURATION] [--timeout SECONDS] [-- CHECK...]
#
# run lets one pod restart, waits until it is ready in the new revision and the director sees it, runs CHECK, a command that is given the
# pod's name as its last argument, and goes on to the next pod if that ends well. In the end the gate is open, at 0.
#
# Nobody is moved: each pod's users lose their sessions, and are back on it when it is, which has to be within RESTART_GRACE. With --evacuate
# each pod is emptied before it restarts, all users at the same --rate per minute, or each pod's within a --by like 2h. Then nobody waits
# for a pod, but each user is moved once or more, and the pod that comes last ends up empty.
#
# If anything fails, it stops with the gate closed, and says what to do. Run again, it goes on where it stopped.
#
# NAMESPACE is where all of it is (default mail), KUBECTL is kubectl and DIRECTOR the director's program, if they are called otherwise; their
# words are split.
set -eu

NAMESPACE=${NAMESPACE:-mail}
KUBECTL=${KUBECTL:-kubectl}
DIRECTOR=${DIRECTOR:-$KUBECTL exec -n $NAMESPACE deploy/go-dovecot-director -- /go-dovecot-director}

usage() {
	sed -n 's/^#	/usage: /p' "$0" >&2
	echo "rollout: $*" >&2
	exit 2
}

say() { echo "rollout: $*"; }

# fail MESSAGE...: each message is a line.
fail() {
	for line; do echo "rollout: $line" >&2; done
	exit 1
}

# The programs' names may be several words.
# shellcheck disable=SC2086
kube() { $KUBECTL -n "$NAMESPACE" "$@"; }
# shellcheck disable=SC2086
ask() { $DIRECTOR "$@" </dev/null; }

# read_set sets what is known of the StatefulSet.
read_set() {
	facts=$(kube get statefulset "$set" -o jsonpath='{.metadata.generation} {.status.observedGeneration} {.spec.updateStrategy.type} {.spec.replicas} {.status.updateRevision} x{.spec.updateStrategy.rollingUpdate.partition} x{.spec.ordinals.start}') ||
		fail "StatefulSet $set in namespace $NAMESPACE cannot be read; nothing was done now"
	# shellcheck disable=SC2086 # words
	set -- $facts
	[ $# = 7 ] || fail "the controller has not looked at StatefulSet $set yet; try again"
	generation=$1 observed=$2 strategy=$3 replicas=$4 revision=$5 partition=${6#x} start=${7#x}
	partition=${partition:-0} start=${start:-0}
}

# settled_set is read_set once the controller has seen the last change: before, it tells of the revision of the one before.
settled_set() {
	wait_begins
	while read_set; [ "$observed" != "$generation" ]; do
		wait_on "the StatefulSet controller does not look at $set" "is kube-controller-manager running?"
	done
}

# read_pod N sets what is known of pod number N, counted from 0 as the partition does.
read_pod() {
	pod=$set-$((start + $1))
	facts=$(kube get pod "$pod" --ignore-not-found -o jsonpath='x{.metadata.labels.controller-revision-hash} x{.status.conditions[?(@.type=="Ready")].status} x{.metadata.deletionTimestamp} x{.status.podIP}') ||
		fail "pod $pod cannot be read; the gate stands at $partition. Run this again to go on"
	# shellcheck disable=SC2086 # words
	set -- $facts
	has=${1:-x} ready=${2:-x} deleted=${3:-x} address=${4:-x}
	has=${has#x} ready=${ready#x} deleted=${deleted#x} address=${address#x}
	[ -z "$deleted" ] || ready=False
}

# read_backend NAME sets what the director says of a backend. -o json has a line for each field.
read_backend() {
	status=$(ask status -o json) || return 1
	fields=$(echo "$status" | awk -v name="$1" '
		/^  "backends": \[/ { inside = 1; next }
		/^  \]/ { inside = 0 }
		inside && /^    \{/ { found = 0; condition = state = address = note = "" }
		inside && /^      "name": / { found = (value() == name) }
		inside && /^      "condition": / { condition = value() }
		inside && /^      "state": / { state = value() }
		inside && /^      "address": / { address = value() }
		inside && /^      "note": / { note = value() }
		inside && /^    \}/ && found { print condition; print state; print address; print note }
		function value() { sub(/^ *"[a-z_]*": "/, ""); sub(/",?$/, ""); return $0 }')
	condition=$(echo "$fields" | sed -n 1p) state=$(echo "$fields" | sed -n 2p) at=$(echo "$fields" | sed -n 3p) note=$(echo "$fields" | sed -n 4p)
	[ -n "$condition" ]
}

wait_begins() { began=$(date +%s); }

# wait_on WHAT DO...: waits for a moment more, or fails.
wait_on() {
	[ $(($(date +%s) - began)) -ge "$timeout" ] || { sleep 1; return; }
	what=$1
	shift
	fail "$what, for ${timeout}s" "$@"
}

# gate N: pods from number N on may have the new revision.
gate() {
	kube patch statefulset "$set" --type merge -p "{\"spec\":{\"updateStrategy\":{\"rollingUpdate\":{\"partition\":$1}}}}" >/dev/null ||
		fail "the gate of StatefulSet $set could not be set to $1; it stands at $partition" "run this again to go on"
	partition=$1
}

# sensible refuses what cannot be done one pod at a time.
sensible() {
	[ "$strategy" = RollingUpdate ] || fail "StatefulSet $set has the update strategy $strategy: there is no gate without RollingUpdate; nothing was done"
	[ "$replicas" -ge 2 ] || fail "StatefulSet $set has fewer than 2 pods: there is nobody to serve users meanwhile; nothing was done"
}

# update N: lets pod number N restart, and waits until it serves again.
update() {
	[ "$partition" -le "$1" ] || gate "$1"
	back="its users wait for RESTART_GRACE, and are then spread over the others; the pods below it are not touched"
	wait_begins
	while read_pod "$1"; [ "$has" != "$revision" ] || [ "$ready" != True ]; do
		wait_on "$pod is not ready in the new revision $revision" "$back" \
			"see why with 'kubectl describe pod $pod' and its log; then run this again to go on, or 'kubectl rollout undo statefulset $set' and delete the pod"
	done
	wait_begins
	until seen; do
		wait_on "$pod is ready, but the director does not see it alive at $address" "$back" "see the director's 'status' and log; then run this again to go on"
		read_pod "$1"
	done
}

# seen says whether the director sees $pod where it is now. What is switched off it never sees alive.
seen() {
	read_backend "$pod" || return 1
	[ "$state" = off ] || { [ "$condition" = alive ] && [ "$at" = "$address" ]; }
}

# check_and_activate N: runs the check on pod number N, and gives it users again.
check_and_activate() {
	[ $# = 1 ] || {
		shift
		"$@" "$pod" || fail "the check of $pod failed: $* $pod; the gate is closed for the pods below it" \
			"$pod is up, and serves the users that it has; it stays drained if it was emptied" \
			"run this again to go on, which checks it again, or take the change back with 'kubectl rollout undo' and the gate at the same place"
	}
	[ "$state" != drain ] || [ "$note" != "$mark" ] || ask activate "$pod" >/dev/null ||
		fail "$pod was upgraded, but could not be activated: it serves, and takes no new users" "run this again to go on"
}

# empty: moves the users of $pod to others.
empty() {
	read_backend "$pod" || fail "the director knows no backend $pod, or does not answer; the gate is closed; nobody is affected" "run this again to go on"
	case $state in
	standby | off) say "$pod is in state $state: it is restarted without being emptied, and left so"; return ;;
	drain) [ "$note" = "$mark" ] || say "$pod was drained before: it stays so" ;;
	esac
	say "$pod is emptied"
	# shellcheck disable=SC2086 # the pace is two words or none
	ask evacuate "$pod" $pace --note "$mark" --wait --yes ||
		fail "$pod could not be emptied; the gate is closed, and it has not restarted" \
			"it takes no new users, those that it has stay or are moved still" \
			"run this again to go on, or give up: 'evacuate $pod --cancel' if it is under way, and 'activate $pod'"
}

[ $# -ge 2 ] || usage "write close or run, and the StatefulSet's name"
verb=$1 set=$2 mark="rollout of $2" evacuate= pace= timeout=600
shift 2
while [ $# -gt 0 ]; do
	case $verb$1 in
	run--evacuate) evacuate=yes ;;
	run--rate | run--by) [ $# -ge 2 ] && [ -z "$pace" ] || usage "$1 needs a value, and only one of --rate and --by goes"; pace="$1 $2"; shift ;;
	run--timeout) [ $# -ge 2 ] || usage "$1 needs a number of seconds"; timeout=$2; shift ;;
	run--) shift; break ;;
	*) usage "$1 is not understood" ;;
	esac
	shift
done
[ -z "$pace" ] || [ -n "$evacuate" ] || usage "${pace%% *} goes with --evacuate"

case $verb in
close)
	settled_set
	sensible
	[ "$partition" -ge "$replicas" ] || gate "$replicas"
	say "the gate of $set is closed: change it now, no pod restarts until 'rollout.sh run $set'"
	exit
	;;
run) ;;
*) usage "$verb is neither close nor run" ;;
esac

trap 'fail "interrupted; no other pod restarts. An evacuation that is under way goes on by itself" "run this again to go on"' INT TERM
settled_set
sensible

# first is the lowest pod from which on all have the new revision; what is not ready must be the one that is restarting.
first=$replicas
while [ "$first" -gt 0 ] && read_pod $((first - 1)) && [ "$has" = "$revision" ]; do
	first=$((first - 1))
done
if [ "$partition" -lt $((first - 1)) ]; then
	gate "$first"
	fail "pods of $set were about to restart by themselves: the gate stood at 0 or below what was left to do" \
		"it is closed now. See that all pods are ready, and run this again to go on"
fi
n=$replicas
while [ "$n" -gt 0 ]; do
	n=$((n - 1))
	read_pod "$n"
	[ "$ready" = True ] || [ "$n" = "$first" ] || { [ "$n" = $((first - 1)) ] && [ "$partition" -le "$n" ]; } ||
		fail "$pod is not ready; the gate is closed" "its users wait or are spread over the others, as the director's 'status' says; no other pod is restarted on top of that" "see why, then run this again"
done

if [ "$first" = 0 ] && [ "$partition" -gt 0 ]; then
	fail "all pods of $set have revision $revision already: there is nothing to upgrade, and the gate stays closed" \
		"change the StatefulSet, then run this again"
fi

n=$replicas
while [ "$n" -gt 0 ]; do
	n=$((n - 1))
	read_pod "$n"
	if [ "$has" = "$revision" ] && [ "$n" -gt "$first" ]; then
		read_backend "$pod" || fail "the director knows no backend $pod, or does not answer; the gate is closed; nobody is affected" "run this again to go on"
		[ "$state" != drain ] || [ "$note" != "$mark" ] || check_and_activate "$n" "$@"
		continue
	fi
	if [ "$has" != "$revision" ] && [ "$ready" = True ]; then
		[ -z "$evacuate" ] || empty
		say "$pod is restarted"
	fi
	update "$n"
	check_and_activate "$n" "$@"
	say "$pod is of the new revision"
done
[ "$partition" = 0 ] || gate 0
say "all pods of $set are of revision $revision, and the gate is open"
