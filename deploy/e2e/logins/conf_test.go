package logins_test

import (
	"fmt"
	"strings"
)

// alike are those settings of the shipped configuration that all proxies must have in common.
const (
	alike23 = `
auth_mechanisms = plain login
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
lmtp_proxy = yes
`
	alike24 = `
auth_mechanisms {
  plain = yes
  login = yes
}
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
lmtp_proxy = yes
`
)

// static23 asks nobody: the address is computed from a hash of the name. It reaches the same three backends as the
// others, because one backend alone works faster (its processes and mailboxes stay in the processors' caches).
func (s *site) static23() string {
	return alike23 + fmt.Sprintf(`
passdb {
  driver = static
  args = proxy=y nopassword=y host=%s%%1.3Nu
}
`, s.addrBeforeDigit())
}

// static24 is static23 for 2.4.
func (s *site) static24() string {
	return alike24 + fmt.Sprintf(`
passdb static {
  fields {
    proxy = y
    nopassword = y
    host = %s%%{user | md5 %% 3}
  }
}
`, s.addrBeforeDigit())
}

// addrBeforeDigit is what the backends' addresses have in common, all but the last digit.
func (s *site) addrBeforeDigit() string {
	first := s.backends[0].Addr.String()
	return first[:len(first)-1]
}

// director23 is a proxy at host n that is the only member of a ring of Dovecot's own Director.
func (s *site) director23(n byte) string {
	var backends []string
	for _, b := range s.backends {
		backends = append(backends, b.Addr.String())
	}
	return alike23 + fmt.Sprintf(`
passdb {
  driver = static
  args = proxy=y nopassword=y
}
director_servers = %s
director_mail_servers = %s
service director {
  unix_listener login/director {
    mode = 0666
  }
  fifo_listener login/proxy-notify {
    mode = 0666
  }
  unix_listener director-userdb {
    mode = 0600
  }
  inet_listener {
    port = 9090
  }
}
service imap-login {
  executable = imap-login director
}
service pop3-login {
  executable = pop3-login director
}
protocol lmtp {
  auth_socket_path = director-userdb
}
`, s.net.Addr(n), strings.Join(backends, " "))
}
