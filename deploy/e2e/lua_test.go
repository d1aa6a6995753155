package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/mail"
)

// deliberate are answers that a client must see as they are meant, as passdb's answer to IMAP.
var deliberate = map[string]struct {
	answer answer
	kind   error
}{
	"wrong password":       {body(`{"code":0,"attributes":"x"}`), mail.ErrRefused},
	"scheme not available": {body(`{"code":-2,"attributes":"x"}`), mail.ErrRefused},
	"unknown user":         {body(`{"code":-3,"attributes":"no such mailbox"}`), mail.ErrRefused},
	"unknown, unexplained": {body(`{"code":-3,"attributes":""}`), mail.ErrRefused},
	"disabled":             {body(`{"code":-4,"attributes":"x"}`), mail.ErrRefused},
	"temporary failure":    {body(`{"code":-1,"attributes":"x"}`), mail.ErrTemporary},
	"a loud failure":       {body(`{"code":-1,"attributes":"` + strings.Repeat(`x\n`, 5000) + `"}`), mail.ErrTemporary},
}

// users has the answer to each user's lookups. The kind, the first part of the name, says which: all of a "first" one's;
// those of a "second" one after the first, which is "unknown" (as LMTP asks); all of a "userdb" one's.
type users map[string]answer

// add makes a user of a kind.
func (u users) add(kind string, a answer) (address string) {
	address = fmt.Sprintf("%s-%d@example.org", kind, len(u))
	u[address] = a
	return address
}

// standIn serves u's answers to lookups of its users. All others belong to the backend at host.
func standIn(t *testing.T, u users, host string) (url string) {
	t.Helper()
	var seen sync.Map
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var request struct{ User, Service, Session, Rip string }
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil || request.Service == "" {
			t.Errorf("request to %s: %+v, %v", r.URL, request, err)
		}
		given, ok := u[request.User]
		if !ok {
			given = body(success(host, ""))
		}
		if _, again := seen.LoadOrStore(request.User, true); !again && strings.HasPrefix(request.User, "second-") {
			given = body(`{"code":-3,"attributes":"no such mailbox"}`)
		}
		given(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// Whatever a broken, overloaded or foreign director answers, a mail program never hears "wrong password", a mail server
// never hears "no such user", no process of the proxy crashes, and sessions that are open stay so.
func TestLuaNeverSaysWrongPassword(t *testing.T) {
	t.Parallel()
	for _, version := range versions {
		t.Run(string(version), func(t *testing.T) {
			t.Parallel()
			net := dovecot.NewNet(t)
			backend := dovecot.StartBackend(t, version, "b0", net.Addr(11), dovecot.DefaultPorts)
			u, first, second, userdb := users{}, map[string]string{}, map[string]string{}, map[string]string{}
			for name, a := range hostile {
				first[name] = u.add("first", a)
				second[name] = u.add("second", a)
				userdb[name] = u.add("userdb", a)
			}
			second["success"] = u.add("second", body(success(backend.Addr.String(), "")))
			userdb["code -3"] = u.add("userdb", body(`{"code":-3,"attributes":"unknown to a passdb"}`))
			userdb["code 0"] = u.add("userdb", body(`{"code":0,"attributes":"wrong password"}`))
			proxy := dovecot.StartProxy(t, version, net.Addr(1), dovecot.ProxyConfig{DirectorURL: standIn(t, u, backend.Addr.String())})
			early, err := mail.LoginIMAP(t.Context(), proxy.At(143), "early@example.org", dovecot.Password)
			if err != nil {
				t.Fatal(err)
			}
			defer early.Close()

			t.Run("hostile", func(t *testing.T) {
				for name, user := range first {
					t.Run(name, func(t *testing.T) {
						t.Parallel()
						hostileLogins(t, proxy, user)
					})
				}
				for name, user := range second {
					t.Run(name+" the second time", func(t *testing.T) {
						t.Parallel()
						wantKind(t, mail.Deliver(t.Context(), proxy.At(24), user, "hello"), mail.ErrTemporary)
					})
				}
				t.Run("userdb", func(t *testing.T) {
					t.Parallel()
					hostileUserdb(t, proxy, userdb)
				})
			})

			if err := early.Noop(); err != nil {
				t.Errorf("a session that was open all the time: %v", err)
			}
			if late, err := mail.LoginIMAP(t.Context(), proxy.At(143), "late@example.org", dovecot.Password); err != nil {
				t.Errorf("a good login afterwards: %v", err)
			} else {
				late.Close()
			}
			noCrashes(t, proxy, backend)
		})
	}
}

// hostileUserdb expects that no userdb lookup ends well or with "no such user".
func hostileUserdb(t *testing.T, proxy *dovecot.Server, userdb map[string]string) {
	t.Helper()
	arguments := []string{"user"}
	for _, user := range userdb {
		arguments = append(arguments, user)
	}
	out := proxy.Doveadm(t, append(arguments, "good@example.org")...)
	for name, user := range userdb {
		if !strings.Contains(out, "userdb lookup("+user+"): Auth USER lookup failed") || strings.Contains(out, user+" doesn't exist") {
			t.Errorf("%s: the lookup of %s was no temporary failure", name, user)
		}
	}
	if strings.Count(out, "proxy\t") != 1 {
		t.Errorf("the good user was not found, or others were:\n%s", out)
	}
}

// hostileLogins expects a temporary failure of user in each protocol.
func hostileLogins(t *testing.T, proxy *dovecot.Server, user string) {
	t.Helper()
	var all sync.WaitGroup
	all.Go(func() {
		session, err := mail.LoginIMAP(t.Context(), proxy.At(143), user, dovecot.Password)
		if err == nil {
			session.Close()
		}
		wantKind(t, err, mail.ErrTemporary)
	})
	all.Go(func() {
		session, err := mail.LoginPOP3(t.Context(), proxy.At(110), user, dovecot.Password)
		if err == nil {
			session.Close()
		}
		wantKind(t, err, mail.ErrTemporary)
	})
	all.Go(func() {
		wantKind(t, mail.Deliver(t.Context(), proxy.At(24), user, "hello"), mail.ErrTemporary)
	})
	all.Wait()
}

// What the director means comes through, and a wrong password is still the backend's to refuse.
func TestLuaPassesOnWhatIsMeant(t *testing.T) {
	t.Parallel()
	for _, version := range versions {
		t.Run(string(version), func(t *testing.T) {
			t.Parallel()
			net := dovecot.NewNet(t)
			backend := dovecot.StartBackend(t, version, "b0", net.Addr(11), dovecot.DefaultPorts)
			u, addresses := users{}, map[string]string{}
			for name, c := range deliberate {
				addresses[name] = u.add("first", c.answer)
			}
			unknown := u.add("first", body(`{"code":-3,"attributes":"no such mailbox"}`))
			unknownToUserdb := u.add("userdb", body(`{"code":-2,"attributes":"no such mailbox"}`))
			proxy := dovecot.StartProxy(t, version, net.Addr(1), dovecot.ProxyConfig{DirectorURL: standIn(t, u, backend.Addr.String())})
			for name, c := range deliberate {
				t.Run(name, func(t *testing.T) {
					_, err := mail.LoginIMAP(t.Context(), proxy.At(143), addresses[name], dovecot.Password)
					wantKind(t, err, c.kind)
				})
			}
			t.Run("mail to an unknown user bounces", func(t *testing.T) {
				wantKind(t, mail.Deliver(t.Context(), proxy.At(24), unknown, "hello"), mail.ErrRefused)
			})
			t.Run("a userdb tells unknown users too", func(t *testing.T) {
				if out := proxy.Doveadm(t, "user", unknownToUserdb); !strings.Contains(out, unknownToUserdb+" doesn't exist") {
					t.Errorf("doveadm user says: %s", out)
				}
			})
			t.Run("a wrong password is the backend's to refuse", func(t *testing.T) {
				_, err := mail.LoginIMAP(t.Context(), proxy.At(143), "good@example.org", "wrong")
				wantKind(t, err, mail.ErrRefused)
				eventually(t, "the backend logs the refused login", func() error {
					if !strings.Contains(backend.Log(), "good@example.org") {
						return errors.New("nothing in its log")
					}
					return nil
				})
			})
			noCrashes(t, proxy, backend)
		})
	}
}
