package http

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestTokensAreComparedInConstantTime reads the code: how long a comparison takes tells nobody how much of a token was right. Timing it would
// say more about the machine.
func TestTokensAreComparedInConstantTime(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	about := regexp.MustCompile(`(?i)token|hash|secret`)
	constant := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BinaryExpr:
				x, y := named(n.X), named(n.Y)
				if (n.Op == token.EQL || n.Op == token.NEQ) && (about.MatchString(x) && y != "nil" && y != "" || about.MatchString(y) && x != "nil" && x != "") {
					t.Errorf("%s: %s %s %s is not compared in constant time", set.Position(n.Pos()), x, n.Op, y)
				}
			case *ast.CallExpr:
				called, ok := n.Fun.(*ast.SelectorExpr)
				if !ok || len(n.Args) < 2 {
					return true
				}
				switch where, what := named(called.X), called.Sel.Name; where + "." + what {
				case "subtle.ConstantTimeCompare":
					constant++
				case "bytes.Equal", "bytes.Compare", "strings.Compare", "strings.EqualFold", "strings.HasPrefix", "slices.Contains", "slices.Equal", "slices.Index":
					if about.MatchString(named(n.Args[0])) || about.MatchString(named(n.Args[1])) {
						t.Errorf("%s: %s.%s does not take the same time for all tokens", set.Position(n.Pos()), where, what)
					}
				}
			}
			return true
		})
	}
	if constant != 1 {
		t.Errorf("there are %d comparisons in constant time, want the one of hashes, which have one length", constant)
	}
}

// named is the last name in an expression, "" if there is none.
func named(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	case *ast.SliceExpr:
		return named(e.X)
	case *ast.IndexExpr:
		return named(e.X)
	}
	return ""
}
