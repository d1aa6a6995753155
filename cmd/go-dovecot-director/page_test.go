package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestServeShowsItsStatus has somebody watch the page while lookups come, and still while the director stops.
func TestServeShowsItsStatus(t *testing.T) {
	file := "sqlite:" + filepath.Join(t.TempDir(), "director.db")
	if code := run(t.Context(), []string{"migrate", "--database-url", file}, none, io.Discard, &lockedBuffer{}); code != 0 {
		t.Fatal("migrate failed")
	}
	i := start(t, "--endpoints-file", endpoints, "--database-url", file, "--replica-name", "director-0")
	status, text := i.get("/")
	for _, want := range []string{"director-0", "Nothing is wrong.", "3/3", "of the ring", "No token of the admin API is configured"} {
		if status != http.StatusOK || !strings.Contains(text, want) {
			t.Errorf("status %d, nothing about %q", status, want)
		}
	}
	if strings.Contains(text, "0.0 %") {
		t.Error("a backend has no part of the ring")
	}
	response, err := http.Get("http://" + i.ops + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	events, told := bufio.NewScanner(response.Body), regexp.MustCompile(`answered <b>0\.[1-9]|answered <b>[1-9]`)
	events.Buffer(nil, 1<<20)
	for n := 0; !told.MatchString(events.Text()); n++ {
		i.lookup(fmt.Sprintf(`{"user":"u%d"}`, n))
		if !events.Scan() {
			t.Fatalf("the events ended before one told of the lookups: %v", events.Err())
		}
	}
	if code := i.stop(); code != 0 || strings.Contains(i.log.String(), "cut off") {
		t.Errorf("exit code %d with a watcher:\n%s", code, i.log)
	}
}
