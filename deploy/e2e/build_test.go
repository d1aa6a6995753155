package e2e_test

import (
	"crypto/sha256"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
)

// module is the product's own folder, two above this one.
func module() string { return dovecot.Dir("..", "..") }

// builds keeps the programs that were built, until the test process ends.
var builds struct {
	sync.Mutex
	dir string
	cmd map[string]string
}

// buildLike builds the director with the very command of the Dockerfile, once per architecture.
func buildLike(t *testing.T, arch string) (path string) {
	t.Helper()
	builds.Lock()
	defer builds.Unlock()
	if path, ok := builds.cmd[arch]; ok {
		return path
	}
	path = buildAt(t, module(), arch, filepath.Join(builds.dir, arch, "go-dovecot-director"))
	builds.cmd[arch] = path
	return path
}

// buildAt builds it in a folder with the sources.
func buildAt(t *testing.T, sources, arch, path string, env ...string) string {
	t.Helper()
	dockerfile, err := os.ReadFile(filepath.Join(sources, "deploy", "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^RUN (CGO_ENABLED=0 .*go build .*)$`).FindSubmatch(dockerfile)
	if line == nil {
		t.Fatal("no build command in the Dockerfile")
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.ReplaceAll(string(line[1]), "/out/go-dovecot-director", path))
	cmd.Dir = sources
	cmd.Env = append(append(os.Environ(), "TARGETOS=linux", "TARGETARCH="+arch), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return path
}

// runDirector runs the director to its end and returns what it prints.
func runDirector(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), buildLike(t, runtime.GOARCH), args...)
	cmd.Env = []string{} // an image FROM scratch has no more than this
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return string(out)
}

// The image is FROM scratch, so its program must need nothing: no interpreter, no libraries.
func TestDockerfileBuildsStaticPrograms(t *testing.T) {
	t.Parallel()
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		t.Run(arch, func(t *testing.T) {
			t.Parallel()
			program, err := elf.Open(buildLike(t, arch))
			if err != nil {
				t.Fatal(err)
			}
			defer program.Close()
			if program.Machine != machine {
				t.Errorf("got a program for %s, want %s", program.Machine, machine)
			}
			libraries, err := program.ImportedLibraries()
			if err != nil || len(libraries) != 0 {
				t.Errorf("the program needs libraries: %v %v", libraries, err)
			}
			for _, part := range program.Progs {
				if part.Type == elf.PT_INTERP {
					t.Error("the program needs an interpreter")
				}
			}
		})
	}
	if out := runDirector(t, "--version"); !strings.HasPrefix(out, "go-dovecot-director version") {
		t.Errorf("it says %q", out)
	}
}

// Who builds the same sources elsewhere gets the same program: what is distributed can be checked against them.
func TestTheBuildIsReproducible(t *testing.T) {
	t.Parallel()
	elsewhere := t.TempDir()
	// With what is not committed, which the program's version tells of.
	for _, arguments := range [][]string{
		{"cp", "-a", module() + "/.", elsewhere},
		{"rm", "-rf", filepath.Join(elsewhere, ".build")},
	} {
		if out, err := exec.CommandContext(t.Context(), arguments[0], arguments[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", arguments, err, out)
		}
	}
	// Its own cache, so that all is compiled there.
	again := buildAt(t, elsewhere, runtime.GOARCH, filepath.Join(elsewhere, ".build", "program"), "GOCACHE="+t.TempDir())
	here, err := os.ReadFile(buildLike(t, runtime.GOARCH))
	if err != nil {
		t.Fatal(err)
	}
	there, err := os.ReadFile(again)
	if err != nil {
		t.Fatal(err)
	}
	if sha256.Sum256(here) != sha256.Sum256(there) {
		t.Errorf("%d bytes here, %d there, and not the same", len(here), len(there))
	}
}
