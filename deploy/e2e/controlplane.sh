#!/bin/sh
# Prints the path of the control plane for tests, deploy/e2e/controlplane, and builds it first when there is none yet.
#
# It lives outside the work tree, in ${XDG_CACHE_HOME:-$HOME/.cache}/go-dovecot-director, under a name made from its
# source and the Go version. Building it from nothing downloads 600 MB of modules and takes some 15 minutes of processor
# time, 2.5 GB of build cache and 2.5 GB of memory; after that it is a matter of seconds.
set -eu

source=$(dirname "$0")/controlplane
cache=${XDG_CACHE_HOME:-$HOME/.cache}/go-dovecot-director
key=$({ cat "$source/main.go" "$source/go.mod" "$source/go.sum" "$0"; go version; } | cksum | cut -d ' ' -f 1)
program=$cache/controlplane-$key
if [ -x "$program" ]; then
	echo "$program"
	exit
fi

mkdir -p "$cache"
exec 9>"$program.lock"
flock 9 # two test runs at once build it once
if [ ! -x "$program" ]; then
	echo "building $program" >&2
	version=$(cd "$source" && go list -m -f '{{.Version}}' k8s.io/kubernetes)
	minor=${version#v1.}
	minor=${minor%%.*}
	x=k8s.io/component-base/version
	# Without debug information it is a quarter smaller, in the build cache too.
	(cd "$source" && CGO_ENABLED=0 go build -buildvcs=false -mod=readonly -gcflags=all=-dwarf=0 \
		-ldflags "-s -w -X $x.gitVersion=$version -X $x.gitMajor=1 -X $x.gitMinor=$minor" -o "$program.new" . 9>&-) >&2
	mv "$program.new" "$program"
fi
echo "$program"
