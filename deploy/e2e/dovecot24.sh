#!/bin/sh
# Prints the path of a chroot that holds Dovecot 2.4 (Debian trixie), and makes it first when there is none yet.
#
# It lives outside the work tree, in ${XDG_CACHE_HOME:-$HOME/.cache}/go-dovecot-director, under a name made from suite and
# packages: another list makes another chroot, a second run finds the first one's. Making it takes about 40 s and 300 MB.
# The mirror is the one that this machine's own apt sources name; DEBIAN_MIRROR overrides it.
set -eu

suite=trixie
packages=dovecot-core,dovecot-imapd,dovecot-lmtpd,dovecot-pop3d,dovecot-auth-lua,lua-cjson

die() {
	echo "dovecot24.sh: $*" >&2
	exit 1
}

cache=${XDG_CACHE_HOME:-$HOME/.cache}/go-dovecot-director
dir=$cache/dovecot-$suite-$(printf %s "$suite $packages" | cksum | cut -d ' ' -f 1)

if [ -x "$dir/usr/sbin/dovecot" ]; then
	echo "$dir"
	exit
fi

[ "$(id -u)" = 0 ] || die "making a chroot with Dovecot 2.4 needs root: run 'sudo $0' once"
for tool in debootstrap flock apt-get; do
	command -v $tool >/dev/null || die "$tool is missing: run 'apt-get install debootstrap util-linux' on a Debian machine"
done

# Debian's main archive as apt knows it. Label and origin are known after 'apt-get update' only, hence the second guess.
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI) $(ORIGIN)/$(LABEL)' 'Identifier: Packages' |
	awk '$2 == "Debian/Debian" || $1 ~ /\/debian\/?$/ { print $1; exit }')}
[ -n "$mirror" ] || die "no Debian mirror in this machine's apt sources: set DEBIAN_MIRROR"

mkdir -p "$cache"
exec 9>"$dir.lock"
flock 9 # two test runs at once make it once
if [ ! -x "$dir/usr/sbin/dovecot" ]; then
	# Built beside its place and renamed, so that a broken attempt is never mistaken for a chroot.
	new=$(mktemp -d "$dir.XXXXXX")
	trap 'rm -rf "$new"' EXIT
	trap 'exit 1' HUP INT TERM
	echo "making $dir from $mirror" >&2
	debootstrap --variant=minbase --include="$packages" "$suite" "$new" "$mirror" >"$dir.log" 2>&1 9>&- ||
		die "debootstrap failed; the end of $dir.log: $(tail -n 3 "$dir.log")"
	rm -rf "$new"/var/cache/apt/archives/*.deb "$new"/var/lib/apt/lists/*
	chmod 755 "$new" # Dovecot's unprivileged processes must be able to enter; mktemp makes 700
	rm -rf "$dir"
	mv "$new" "$dir"
	trap - EXIT
fi
echo "$dir"
