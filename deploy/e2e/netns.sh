#!/bin/sh
# Runs a program in network and mount namespaces of its own, where the documentation range 192.0.2.0/24 is local and
# nothing else but loopback exists: go test -exec "$PWD/netns.sh" ./...
#
# Pods need such addresses, because the API server refuses loopback ones. Any address of the range can be bound, one
# without a listener refuses connections, and the rest of the world cannot be reached. The namespaces end with their last
# process.
set -eu
if [ "${IN_NETNS:-}" != 1 ]; then
	IN_NETNS=1 exec unshare --net --mount -- "$0" "$@"
fi
ip link set lo up
ip addr add 192.0.2.1/24 dev lo
exec "$@"
