package k8s

//lint:file-ignore SA1019 Endpoints are what the minimal rights allow; they are deprecated and go on working

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	director "github.com/k-web-s/go-dovecot-director"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// fileEvery is how often the file is looked at. It is read, not watched: editors and ConfigMaps replace files in ways
// that a watch on a name does not see.
const fileEvery = time.Second

// maxFile is the largest file in bytes.
const maxFile = 16 << 20

// FileConfig says which file to follow.
type FileConfig struct {
	// Path is a file with Endpoints or EndpointSlices of one Service, or a plain list of backends, in YAML or JSON.
	Path string
	// Publish gets the snapshots, one call at a time.
	Publish func(director.Snapshot)
	// Logger gets edits that cannot be used; nil discards.
	Logger *slog.Logger
}

// File follows a file.
type File struct {
	config FileConfig
	log    *slog.Logger
	ask    chan struct{}
	// text is what the file held when it could last be used, and backends what that means.
	text     []byte
	backends []director.Backend
	readAt   time.Time // when that was
	gaps     int       // how often it had not been read for long

	mu    sync.Mutex
	fault error
}

// NewFile reads the file once and publishes what it holds. The error says what is wrong with it, and where.
func NewFile(c FileConfig) (*File, error) {
	f := &File{config: c, log: c.Logger, ask: make(chan struct{}, 1)}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	if err := f.load(); err != nil {
		return nil, err
	}
	return f, nil
}

// Run follows the file until ctx ends. It returns nil. An edit that cannot be used is logged and leaves everything as
// it was.
func (f *File) Run(ctx context.Context) error {
	ticker := time.NewTicker(fileEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-f.ask:
		}
		err := f.load()
		f.mu.Lock()
		before := f.fault
		f.fault = err
		f.mu.Unlock()
		switch {
		case err != nil && (before == nil || before.Error() != err.Error()):
			f.log.Warn("the backends' file cannot be used; the last view serves, and nobody is moved from a lost backend until it can", "error", err)
		case err == nil && before != nil:
			f.log.Info("the backends' file can be used again", "file", f.config.Path)
		}
	}
}

// Confirm has the file read soon. It does not block.
func (f *File) Confirm() {
	select {
	case f.ask <- struct{}{}:
	default:
	}
}

// Kind says what the backends are read from, in one word.
func (f *File) Kind() string { return "file" }

// Describe says in one sentence how the file is; failing is set while its last edit cannot be used.
func (f *File) Describe() (detail string, failing bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fault != nil {
		return f.fault.Error(), true
	}
	return "file " + f.config.Path, false
}

func (f *File) load() error {
	readAt := time.Now()
	file, err := os.Open(f.config.Path)
	if err != nil {
		return fmt.Errorf("backends' file: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	switch {
	case err != nil:
		return fmt.Errorf("backends' file: %w", err)
	case len(text) > maxFile:
		return fmt.Errorf("backends' file %s: it is longer than %d bytes", f.config.Path, maxFile)
	}
	if f.text == nil || !bytes.Equal(text, f.text) { // parsing each second leaves more garbage than all else at rest
		backends, err := Parse(text)
		if err != nil {
			return fmt.Errorf("backends' file %s: %w", f.config.Path, err)
		}
		f.text, f.backends = text, backends
	}
	if !f.readAt.IsZero() && readAt.Sub(f.readAt) > 3*fileEvery {
		f.gaps++ // it was not there, could not be used, or the process was stopped
	}
	f.readAt = readAt
	f.config.Publish(director.Snapshot{Backends: f.backends, Gaps: f.gaps, CurrentAt: readAt})
	return nil
}

// Parse reads Endpoints, EndpointSlices (several documents, or a List of them), or a plain list:
//
//   - name: dovecot-backend-0
//     address: 192.0.2.10
//     ports: {imap: 31143}   # optional
//     weight: 1              # optional; 0 takes no new users
//     ready: true            # optional
//
// Fields that are not known, or are in other case, are errors: a typing error must not take a backend away. An empty file is
// an error too, as it may be half written; the empty list [] is none. Errors are one line, however odd the file is.
func Parse(text []byte) ([]director.Backend, error) {
	backends, err := parse(text)
	if err != nil {
		return nil, errors.New(oneLine(err))
	}
	return backends, nil
}

// longestError is the longest text in bytes of an error about a file, which may hold names of any length.
const longestError = 400

// oneLine is the text of an error. Those about YAML are of several lines, and may quote what cannot be printed.
func oneLine(err error) string {
	var lines []string
	for line := range strings.Lines(err.Error()) {
		lines = append(lines, strings.TrimSpace(line))
	}
	text := strings.ReplaceAll(strings.Join(lines, "; "), ":; ", ": ")
	if len(text) > longestError {
		text = strings.ToValidUTF8(text[:longestError], "") + "..."
	}
	return strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return utf8.RuneError
		}
		return c
	}, text)
}

func parse(text []byte) ([]director.Backend, error) {
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	var found documents
	for n := 1; ; n++ {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = found.add(document)
		}
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", n, err)
		}
	}
	return found.backends()
}

// documents is what a file holds.
type documents struct {
	endpoints []corev1.Endpoints
	slices    []discoveryv1.EndpointSlice
	plain     [][]plainBackend
}

// plainBackend is an entry of the plain list.
type plainBackend struct {
	Name    string            `json:"name"`
	Address string            `json:"address"`
	Ports   map[string]uint16 `json:"ports"`
	Weight  *int              `json:"weight"`
	Ready   *bool             `json:"ready"`
}

// add takes one YAML or JSON document.
func (d *documents) add(document []byte) error {
	asJSON, err := yaml.YAMLToJSONStrict(document)
	if err != nil {
		return err
	}
	switch asJSON = bytes.TrimSpace(asJSON); {
	case bytes.Equal(asJSON, []byte("null")):
		return nil // a comment, or nothing
	case asJSON[0] == '[':
		var plain []plainBackend
		if err := strict(asJSON, &plain); err != nil {
			return err
		}
		if plain == nil {
			plain = []plainBackend{}
		}
		d.plain = append(d.plain, plain)
		return nil
	case asJSON[0] != '{':
		return errors.New("it is neither an object nor a list")
	}
	return d.addObject(asJSON)
}

func (d *documents) addObject(object []byte) error {
	var head struct {
		Kind  string            `json:"kind"`
		Items []json.RawMessage `json:"items"`
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(object, &head); err != nil {
		return err
	}
	switch head.Kind {
	case "List", "EndpointsList", "EndpointSliceList":
		for i, item := range head.Items {
			if err := d.addOne(item); err != nil {
				return fmt.Errorf("item %d: %w", i, err)
			}
		}
		return nil
	}
	return d.addOne(object)
}

// addOne takes an object that is no list.
func (d *documents) addOne(object []byte) error {
	var head struct {
		Kind string `json:"kind"`
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(object, &head); err != nil {
		return err
	}
	switch head.Kind {
	case "Endpoints":
		var e corev1.Endpoints
		if err := strict(object, &e); err != nil {
			return err
		}
		d.endpoints = append(d.endpoints, e)
	case "EndpointSlice":
		var s discoveryv1.EndpointSlice
		if err := strict(object, &s); err != nil {
			return err
		}
		d.slices = append(d.slices, s)
	default:
		return fmt.Errorf("kind %q is not known; write Endpoints, EndpointSlice or a plain list", head.Kind)
	}
	return nil
}

// strict decodes JSON as the API server does, and refuses fields that are not known. encoding/json would take them in any case.
func strict(text []byte, into any) error {
	unknown, err := kjson.UnmarshalStrict(text, into)
	return cmp.Or(err, errors.Join(unknown...))
}

func (d *documents) backends() ([]director.Backend, error) {
	switch {
	case len(d.endpoints) == 1 && len(d.slices) == 0 && len(d.plain) == 0:
		return FromEndpoints(&d.endpoints[0])
	case len(d.endpoints) == 0 && len(d.slices) > 0 && len(d.plain) == 0:
		service := d.slices[0].Labels[discoveryv1.LabelServiceName]
		for _, s := range d.slices {
			if s.Labels[discoveryv1.LabelServiceName] != service {
				return nil, fmt.Errorf("it holds EndpointSlices of two Services, %q and %q", service, s.Labels[discoveryv1.LabelServiceName])
			}
		}
		return FromSlices(d.slices)
	case len(d.endpoints) == 0 && len(d.slices) == 0 && len(d.plain) == 1:
		return fromPlain(d.plain[0])
	case len(d.endpoints)+len(d.slices)+len(d.plain) == 0:
		return nil, errors.New("it is empty; write [] for no backends")
	default:
		return nil, errors.New("it holds more than one Endpoints object, or things of several kinds")
	}
}

func fromPlain(list []plainBackend) ([]director.Backend, error) {
	var m merge
	for i, p := range list {
		addr, err := netip.ParseAddr(p.Address)
		switch {
		case err != nil || addr.Unmap().IsUnspecified():
			return nil, fmt.Errorf("entry %d: address %.60q is not an IP address that can be connected to", i, p.Address)
		case value(p.Weight, 1) < 0 || value(p.Weight, 1) > 100:
			return nil, fmt.Errorf("entry %d: weight %d is not between 0 and 100", i, *p.Weight)
		case p.Name == "":
			p.Name = p.Address
		}
		if _, twice := m.byName[p.Name]; twice {
			return nil, fmt.Errorf("entry %d: the name %.60q stands there twice", i, p.Name)
		}
		b := director.Backend{Name: p.Name, Weight: value(p.Weight, 1), Condition: director.Ready, Ports: make(map[string]uint16, len(p.Ports))}
		if !value(p.Ready, true) {
			b.Condition = director.NotReady
		}
		for name, port := range p.Ports {
			lower := strings.ToLower(name)
			switch _, twice := b.Ports[lower]; {
			case port == 0:
				return nil, fmt.Errorf("entry %d: port %.60q is 0", i, name)
			case twice:
				return nil, fmt.Errorf("entry %d: port %.60q stands there twice, in capitals too", i, lower)
			}
			b.Ports[lower] = port
		}
		if err := m.add(b, p.Address); err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
	}
	return m.backends(), nil
}
