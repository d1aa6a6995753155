package director_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/k-web-s/go-dovecot-director"

// rooms is the import table: which of our packages a package may import besides the domain, and which parts of
// others. Packages of the standard library are free to all but the domain.
var rooms = map[string]struct{ ours, others []string }{
	"":                        {},
	"ring":                    {others: []string{"github.com/cespare/xxhash"}},
	"ring/sim":                {ours: []string{"ring"}, others: []string{"github.com/cespare/xxhash", "go.yaml.in/yaml/v3"}},
	"store":                   {others: []string{"github.com/jmoiron/sqlx", "github.com/lib/pq", "modernc.org/sqlite"}},
	"store/storetest":         {},
	"store/pgtest":            {others: []string{"github.com/lib/pq"}},
	"k8s":                     {others: []string{"github.com/go-logr/logr", "k8s.io/", "sigs.k8s.io/json", "sigs.k8s.io/yaml"}},
	"k8s/apitest":             {others: []string{"k8s.io/"}},
	"http":                    {},
	"http/doveadm":            {},
	"http/metrics":            {others: []string{"github.com/prometheus/client_golang/prometheus"}},
	"http/status":             {},
	"cmd/loadgen":             {ours: []string{"store/pgtest"}},
	"cmd/go-dovecot-director": {ours: []string{"http", "http/doveadm", "http/metrics", "http/status", "k8s", "ring", "ring/sim", "store"}, others: []string{"github.com/spf13/", "golang.org/x/term"}},
}

// domainFree is what the domain does without: with it, a rule could not be simulated.
var domainFree = []string{"net/http", "database/sql", "os", "io", "io/fs", "net"}

type goPackage struct {
	ImportPath string
	Standard   bool
	Imports    []string
}

// TestImports holds the direction of dependencies: rooms know the domain, the domain knows nobody, cmd wires.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Standard,Imports", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		room, ok := rooms[name]
		if !ok {
			t.Errorf("%s has no place in the import table", p.ImportPath)
			continue
		}
		for _, path := range p.Imports {
			ours, isOurs := strings.CutPrefix(path, module)
			switch {
			case isOurs && (ours == "" || slices.Contains(room.ours, strings.TrimPrefix(ours, "/"))):
			case !isOurs && !strings.Contains(strings.Split(path, "/")[0], "."):
				if name == "" && slices.Contains(domainFree, path) {
					t.Errorf("the domain imports %s: it does no I/O", path)
				}
			case !isOurs && slices.ContainsFunc(room.others, func(prefix string) bool { return strings.HasPrefix(path, prefix) }):
			default:
				t.Errorf("%s imports %s", p.ImportPath, path)
			}
		}
	}
}
