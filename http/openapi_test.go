package http

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// object is a part of the document.
type object = map[string]any

// openAPIDocument is the document, for checks of requests that were made.
type openAPIDocument struct {
	t    testing.TB
	root object
}

func readDocument(t testing.TB) openAPIDocument {
	t.Helper()
	var root object
	if err := json.Unmarshal(openAPI, &root); err != nil {
		t.Fatal(err)
	}
	return openAPIDocument{t, root}
}

// follow returns what a part refers to, or the part.
func (d openAPIDocument) follow(part any) object {
	o, _ := part.(object)
	reference, ok := o["$ref"].(string)
	if !ok {
		return o
	}
	target := d.root
	for name := range strings.SplitSeq(strings.TrimPrefix(reference, "#/"), "/") {
		if target, ok = target[name].(object); !ok {
			d.t.Fatalf("%s refers to nothing", reference)
		}
	}
	return target
}

// operation returns the part about a method on a path with names in braces.
func (d openAPIDocument) operation(method, path string) object {
	paths, _ := d.root["paths"].(object)
	operations, _ := paths[path].(object)
	o, _ := operations[strings.ToLower(method)].(object)
	return o
}

// check holds that an answer is one that the document lists.
func (d openAPIDocument) check(method, path string, status int, body []byte) error {
	o := d.operation(method, path)
	if o == nil {
		return fmt.Errorf("%s %s is not in the document", method, path)
	}
	responses, _ := o["responses"].(object)
	response, ok := responses[fmt.Sprint(status)]
	if !ok {
		return fmt.Errorf("%s %s: status %d is not in the document", method, path, status)
	}
	content, _ := d.follow(response)["content"].(object)
	media, _ := content["application/json"].(object)
	var value any
	if err := json.Unmarshal(body, &value); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if err := d.fits(value, media["schema"]); err != nil {
		return fmt.Errorf("%s %s, %d: %w in %s", method, path, status, err, body)
	}
	return nil
}

// fits holds that a value is as a schema says, and has no field that it does not name.
func (d openAPIDocument) fits(value, schema any) error {
	s := d.follow(schema)
	if s == nil {
		return fmt.Errorf("there is no schema")
	}
	if choices, ok := s["enum"].([]any); ok && !slices.Contains(choices, value) {
		return fmt.Errorf("%v is none of %v", value, choices)
	}
	switch v := value.(type) {
	case object:
		return d.fitsObject(v, s)
	case []any:
		for i, element := range v {
			if err := d.fits(element, s["items"]); err != nil {
				return fmt.Errorf("[%d]: %w", i, err)
			}
		}
		return typed(s, "array")
	case string:
		if s["format"] == "date-time" {
			if _, err := time.Parse(time.RFC3339, v); err != nil {
				return err
			}
		}
		return typed(s, "string")
	case bool:
		return typed(s, "boolean")
	case float64:
		if v == float64(int64(v)) && s["type"] == "integer" {
			return nil
		}
		return typed(s, "number")
	}
	return fmt.Errorf("null, where a %v should be", s["type"])
}

func (d openAPIDocument) fitsObject(v, s object) error {
	properties, _ := s["properties"].(object)
	required, _ := s["required"].([]any)
	for _, name := range required {
		if _, ok := v[name.(string)]; !ok {
			return fmt.Errorf("%v is missing", name)
		}
	}
	for name, field := range v {
		schema, ok := properties[name]
		if !ok {
			schema, ok = s["additionalProperties"].(object)
		}
		if !ok && properties != nil {
			return fmt.Errorf("field %q is not in the schema", name)
		}
		if ok {
			if err := d.fits(field, schema); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return typed(s, "object")
}

func typed(schema object, kind string) error {
	if schema["type"] != kind {
		return fmt.Errorf("a %s, where a %v should be", kind, schema["type"])
	}
	return nil
}

func TestTheDocumentListsTheRoutesAndNoOthers(t *testing.T) {
	d := readDocument(t)
	want := map[string]bool{}
	for _, route := range NewAdmin(AdminConfig{}).routes {
		want[route.method+" "+adminRoot+route.path] = true
		o := d.operation(route.method, adminRoot+route.path)
		if o == nil {
			t.Errorf("%s %s is not in the document", route.method, route.path)
			continue
		}
		named := map[string]bool{}
		parameters, _ := o["parameters"].([]any)
		for _, p := range parameters {
			named[fmt.Sprint(d.follow(p)["name"])] = true
		}
		for segment := range strings.SplitSeq(route.path, "/") {
			if name, ok := strings.CutPrefix(segment, "{"); ok && !named[strings.TrimSuffix(name, "}")] {
				t.Errorf("%s %s: the document does not describe %s", route.method, route.path, segment)
			}
		}
		if (route.method != http.MethodGet) != named[actorHeader] {
			t.Errorf("%s %s: the header %s belongs to changes, and to all", route.method, route.path, actorHeader)
		}
	}
	paths, _ := d.root["paths"].(object)
	for path, operations := range paths {
		for method := range operations.(object) {
			if !want[strings.ToUpper(method)+" "+path] {
				t.Errorf("%s %s is in the document only", method, path)
			}
		}
	}
}

// TestTheDocumentNamesWhatOrdersHold compares the orders' fields with the schemas of the bodies.
func TestTheDocumentNamesWhatOrdersHold(t *testing.T) {
	d := readDocument(t)
	weight, rate, by, slack := 1, 50, dated(soon), 0.1
	for name, order := range map[string]any{
		"MoveOrder":       moveOrder{To: new("b"), Force: true, Note: "n"},
		"NoteOrder":       noteOrder{"n"},
		"EvacuationOrder": evacuationOrder{Rate: &rate, By: &by, Paused: true, Note: "n"},
		"RebalanceOrder":  rebalanceOrder{Rate: &rate, By: &by, Slack: &slack, Paused: true, Note: "n"},
		"StandOrder":      standOrder{State: "drain", Weight: &weight, Force: true, Note: "n"},
	} {
		schema := d.follow(object{"$ref": "#/components/schemas/" + name})
		encoded, err := json.Marshal(order)
		if err != nil {
			t.Fatal(err)
		}
		var value object
		if err := json.Unmarshal(encoded, &value); err != nil {
			t.Fatal(err)
		}
		if err := d.fits(value, schema); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if len(value) != len(schema["properties"].(object)) || schema["additionalProperties"] != false {
			t.Errorf("%s: the fields are %v, in the document %v", name, value, schema["properties"])
		}
	}
}

func TestTheDocumentsReferencesLeadSomewhere(t *testing.T) {
	d := readDocument(t)
	used := map[string]bool{}
	var walk func(any)
	walk = func(part any) {
		switch p := part.(type) {
		case object:
			if reference, ok := p["$ref"].(string); ok {
				used[reference] = true
				d.follow(p)
			}
			for _, inner := range p {
				walk(inner)
			}
		case []any:
			for _, inner := range p {
				walk(inner)
			}
		}
	}
	walk(d.root)
	components, _ := d.root["components"].(object)
	for _, kind := range []string{"schemas", "responses", "parameters"} {
		for name := range components[kind].(object) {
			if !used["#/components/"+kind+"/"+name] {
				t.Errorf("%s %s is not used", kind, name)
			}
		}
	}
}
