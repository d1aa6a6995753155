package doveadm

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzParse holds that every answer is either refused or complete.
func FuzzParse(f *testing.F) {
	recordings, err := filepath.Glob("../../testdata/doveadm/*.json")
	if err != nil || len(recordings) == 0 {
		f.Fatal("no recordings", err)
	}
	for _, name := range recordings {
		content, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content, 1)
	}
	f.Add([]byte(`[["error",{"type":"exitCode", "exitCode":68},"0"],["doveadmResponse",[{"count":"0"}],"1"]]`), 2)
	f.Fuzz(func(t *testing.T, body []byte, commands int) {
		if v, err := parseVersion(body); (err == nil) != (v == v23 || v == v24) {
			t.Errorf("version %d, %v", v, err)
		}
		results, err := parse(body, commands)
		if err != nil {
			return
		}
		if len(results) != commands {
			t.Fatalf("%d results of %d commands", len(results), commands)
		}
		for _, r := range results {
			if (r.rows == nil) == (r.err == nil) {
				t.Errorf("neither rows nor an error, or both: %v", r)
			}
			if r.err != nil && (r.err.Type == "" || r.err.Error() == "") {
				t.Errorf("an error that says nothing: %v", r)
			}
		}
	})
}
