package main

func readMappingFile(name string, each func(user, backend string) error) error { return nil }
