package sim

import "io"

func WritePage(w io.Writer, results []*Result) error { return nil }
