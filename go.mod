module github.com/k-web-s/go-dovecot-director

go 1.26.0
