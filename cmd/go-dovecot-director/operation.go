package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	directorhttp "github.com/k-web-s/go-dovecot-director/http"
	"github.com/k-web-s/go-dovecot-director/http/doveadm"
	"github.com/k-web-s/go-dovecot-director/k8s"
	"github.com/spf13/pflag"
)

// doveadmLimit is how long a backend or proxy may take to answer. A step of a move takes 5 s at most, a wait for the others included.
const doveadmLimit = 1500 * time.Millisecond

// listLimit is how long a backend may take to list all its sessions, for what nobody waits for.
const listLimit = 10 * time.Second

// operationSettings say how users are moved and sessions ended.
type operationSettings struct {
	replicaName    string
	journalFor     time.Duration
	doveadmKeyFile string
	doveadmKey     string
	doveadmPort    uint16
	proxyService   string
	proxies        []netip.AddrPort
	rebalance      string
	rebalanceRate  int
	rebalanceSlack float64
	rebalanceMost  int
	evenAbove      float64
	minimumStay    time.Duration
	sessionPoll    time.Duration
	pollJitter     float64
}

// rebalanceAuto is the value of --rebalance that evens users out without an order.
const rebalanceAuto = "auto"

func (s *operationSettings) register(fs *pflag.FlagSet) {
	add(fs, &s.replicaName, "replica-name", "name", "", "name of this replica, among all that share the database; if it is not set, the host's, with the address of the lookup API unless that is the default", parseName)
	add(fs, &s.journalFor, "journal-retention", "duration", "2160h", "how long entries of the journal are kept", parseDuration(time.Hour, 10*365*24*time.Hour))
	add(fs, &s.doveadmKeyFile, "doveadm-key-file", "file", "", "file that holds the doveadm_api_key of backends and proxies; without it sessions can be neither seen nor ended", parseText)
	add(fs, &s.doveadmPort, "doveadm-port", "port", "8080", "port of doveadm's HTTP API where the Service names none doveadm-http or doveadm", parsePortNumber)
	add(fs, &s.proxyService, "proxy-service", "name", "", "the proxies' Service, in the same namespace: there sessions are ended to backends that do not answer", parseText)
	add(fs, &s.proxies, "proxies", "addresses", "", "the proxies' doveadm listeners instead, as ADDRESS:PORT with commas between", parseAddrPorts)
	add(fs, &s.sessionPoll, "session-poll", "duration", "1m0s", "how often each replica asks the backends who is logged in; 0s for never", parsePoll)
	add(fs, &s.pollJitter, "session-poll-jitter", "number", "0.2", "by which part of it that varies, so that replicas do not ask together", parseNumber(0, 1))
	add(fs, &s.rebalance, "rebalance", "choice", "off", "even out how many users the backends have: auto does so all the time, off when it is ordered only", parseChoice("off", rebalanceAuto))
	add(fs, &s.rebalanceRate, "rebalance-rate", "number", "10", "how many users auto moves in a minute, and --even-above", parseCount(1, director.MaxRate))
	add(fs, &s.rebalanceSlack, "rebalance-slack", "number", "0.1", "how much more than its share a backend may have before auto moves users off it: 0.1 for a tenth", parseNumber(0, director.MaxSlack))
	add(fs, &s.rebalanceMost, "rebalance-budget", "number", "0", "how many users are moved for balance in an hour at most, by order too; 0 for any number", parseCount(0, 100_000_000))
	add(fs, &s.evenAbove, "even-above", "number", "0", "even out sessions without ending any: off a backend with more than so many times its share of them, users are moved who are often logged in, while they are not; 1.1 for a tenth more, 0 for never", parseAbove)
	add(fs, &s.minimumStay, "minimum-stay", "duration", "24h", "how long a user who was moved stays before he is moved for balance again", parseDuration(0, 365*24*time.Hour))
}

// parseAbove takes 0 for never.
func parseAbove(s string) (float64, error) {
	n, err := parseNumber(0, director.MaxSlack)(s)
	if err == nil && n > 0 && n < 1 {
		err = fmt.Errorf("%v is less than a backend's share; the least is 1, and 0 is for never", n)
	}
	return n, err
}

// parsePoll takes 0 for never.
func parsePoll(s string) (time.Duration, error) {
	d, err := parseDuration(0, time.Hour)(s)
	if err == nil && d > 0 && d < time.Second {
		err = fmt.Errorf("%v is too often; the least is 1s, and 0s is for never", d)
	}
	return d, err
}

// parseName takes what can be written in the paths of the admin API.
func parseName(s string) (string, error) {
	if err := directorhttp.CheckName(s); err != nil {
		return "", err
	}
	return s, nil
}

func parseNumber(least, most float64) func(string) (float64, error) {
	return parseWithin(func(s string) (float64, error) { return strconv.ParseFloat(s, 64) }, "is not a number", least, most)
}

// census makes what polls the backends for sessions, nil if that is off.
func (s *operationSettings) census(d *director.Director, sessions director.Sessions, lead func(context.Context) (bool, error), log *slog.Logger) *director.Census {
	if sessions == nil || s.sessionPoll == 0 {
		return nil
	}
	return director.NewCensus(director.CensusConfig{Director: d, Sessions: sessions, Every: s.sessionPoll, Jitter: s.pollJitter, Lead: lead, Logger: log})
}

// lazy is how sessions are evened out between logins.
func (s *operationSettings) lazy(census *director.Census) director.Lazy {
	return director.Lazy{Above: s.evenAbove, Rate: s.rebalanceRate, Census: census}
}

// auto is the rebalance that is begun without an order, of no rate if none is.
func (s *operationSettings) auto() director.Task {
	if s.rebalance != rebalanceAuto {
		return director.Task{}
	}
	return director.Task{Kind: director.Rebalance, Rate: s.rebalanceRate, Slack: s.rebalanceSlack, Actor: rebalanceAuto}
}

func parsePortNumber(s string) (uint16, error) {
	if _, err := parsePort(s); err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err
}

func parseAddrPorts(s string) ([]netip.AddrPort, error) {
	var all []netip.AddrPort
	for text := range strings.SplitSeq(s, ",") {
		a, err := netip.ParseAddrPort(strings.TrimSpace(text))
		if err != nil || a.Port() == 0 {
			return nil, fmt.Errorf("%q is not an address with a port; write 192.0.2.1:8080 or [2001:db8::1]:8080", text)
		}
		all = append(all, a)
	}
	return all, nil
}

func (s *operationSettings) check(source sourceSettings) error {
	switch {
	case s.rebalance == rebalanceAuto && s.doveadmKeyFile == "":
		return errors.New("--rebalance auto (environment: REBALANCE) needs --doveadm-key-file: nobody is moved without knowing who is logged in")
	case s.evenAbove > 0 && (s.doveadmKeyFile == "" || s.sessionPoll == 0):
		return errors.New("--even-above (environment: EVEN_ABOVE) needs --doveadm-key-file and --session-poll: it has to be known who is logged in")
	case s.proxyService != "" && len(s.proxies) > 0:
		return errors.New("both --proxy-service and --proxies (environment: PROXY_SERVICE, PROXIES) are set: unset one")
	case s.proxyService != "" && source.service == "":
		return errors.New("--proxy-service (environment: PROXY_SERVICE) needs --service and --namespace: with --endpoints-file name the proxies by --proxies")
	case (s.proxyService != "" || len(s.proxies) > 0) && s.doveadmKeyFile == "":
		return errors.New("--doveadm-key-file (environment: DOVEADM_KEY_FILE) is missing: proxies cannot be asked without it")
	case s.doveadmKeyFile == "":
		return nil
	}
	key, err := os.ReadFile(s.doveadmKeyFile)
	if err != nil {
		return fmt.Errorf("--doveadm-key-file (environment: DOVEADM_KEY_FILE): %w", err)
	}
	if s.doveadmKey = strings.TrimRight(string(key), "\r\n"); s.doveadmKey == "" {
		return fmt.Errorf("--doveadm-key-file (environment: DOVEADM_KEY_FILE): %s is empty", s.doveadmKeyFile)
	}
	return nil
}

// name is this replica's name: in a pod, the pod's. Replicas that share a host differ by where they listen.
func (s *operationSettings) name(listen string) (string, error) {
	if s.replicaName != "" {
		return s.replicaName, nil
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("the host has no name (%w): set --replica-name", err)
	}
	switch _, port, _ := net.SplitHostPort(listen); {
	case port == "0":
		return fmt.Sprintf("%s/%d", name, os.Getpid()), nil
	case listen != defaultListen:
		return name + "/" + listen, nil
	}
	return name, nil
}

// open makes what asks backends and proxies, nil without a key.
func (s *operationSettings) open(users director.UserFormat, proxies func() []netip.AddrPort, log *slog.Logger) (director.Sessions, func()) {
	if s.doveadmKey == "" {
		return nil, func() {}
	}
	client := doveadm.New(doveadm.Config{
		Key: s.doveadmKey, Port: s.doveadmPort, Proxies: proxies, Timeout: doveadmLimit, ListTimeout: listLimit, Logger: log, CaseOnly: users.CaseOnly(),
		Canonical: func(name string) (string, bool) {
			user, err := users.Canonical(name)
			return user.Name, err == nil
		},
	})
	return client, client.Close
}

// self returns what a replica says of itself.
func self(d *director.Director) func() director.Replica {
	return func() director.Replica {
		r := d.Self()
		r.Version = version()
		return r
	}
}

// proxySource knows the proxies.
type proxySource struct {
	addresses func() []netip.AddrPort
	run       func(context.Context) error
}

// openProxies makes the source of proxies that the settings name, which may be one of none.
func (s sourceSettings) openProxies(o operationSettings, log *slog.Logger) (proxySource, error) {
	p := proxySource{
		addresses: func() []netip.AddrPort { return o.proxies },
		run: func(ctx context.Context) error {
			<-ctx.Done()
			return nil
		},
	}
	if o.proxyService == "" {
		return p, nil
	}
	var known atomic.Pointer[[]netip.AddrPort]
	known.Store(new([]netip.AddrPort))
	client, err := k8s.NewClient(s.kubeconfig, program+"/"+version())
	if err != nil {
		return p, err
	}
	watch := k8s.NewWatch(k8s.WatchConfig{Client: client, Namespace: s.namespace, Service: o.proxyService, Logger: log, Publish: func(snapshot director.Snapshot) {
		known.Store(new(listeners(snapshot, o.doveadmPort)))
	}})
	p.addresses = func() []netip.AddrPort { return slices.Clone(*known.Load()) }
	p.run = watch.Run
	return p, nil
}

// listeners are where the proxies that run may be asked, ready or not.
func listeners(snapshot director.Snapshot, port uint16) []netip.AddrPort {
	var all []netip.AddrPort
	for _, b := range snapshot.Backends {
		all = append(all, netip.AddrPortFrom(b.Addr, doveadm.PortOf(b, port)))
	}
	return all
}
