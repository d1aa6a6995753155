package main

import (
	"encoding/csv"
	"os"
)

func readMappingFile(name string, each func(user, backend string) error) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	all, err := csv.NewReader(f).ReadAll()
	for _, r := range all[1:] {
		if err := each(r[0], r[1]); err != nil {
			return err
		}
	}
	return err
}
