package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
)

// stops is what has to be undone, in the order in which it was done.
type stops struct {
	log   *slog.Logger
	steps []stop
}

type stop struct {
	name string
	do   func(context.Context) error
}

// add notes how to stop what has just been started.
func (s *stops) add(name string, do func(context.Context) error) {
	s.steps = append(s.steps, stop{name, do})
}

// run stops everything, last started first. A step that fails does not keep the others from being taken. When ctx ends,
// the steps that are left still run: they see it and hurry.
func (s *stops) run(ctx context.Context) error {
	var errs []error
	for i := len(s.steps) - 1; i >= 0; i-- {
		step := s.steps[i]
		s.log.Debug("stopping", "part", step.name)
		if err := step.do(ctx); err != nil {
			s.log.Error("part did not stop cleanly", "part", step.name, "error", err)
			errs = append(errs, fmt.Errorf("stopping %s: %w", step.name, err))
		}
	}
	s.steps = nil
	return errors.Join(errs...)
}

// background starts do and notes how to stop it: by ending its context and waiting for it to return. When it returns
// by itself, failed is told, or the stop if failed has no room as other parts were first.
func (s *stops) background(name string, failed chan<- error, do func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		err := do(ctx)
		if ctx.Err() == nil {
			if err == nil {
				err = errors.New("ended by itself")
			}
			err = fmt.Errorf("%s: %w", name, err)
			select {
			case failed <- err:
				err = nil
			default:
			}
		}
		done <- err
	}()
	s.add(name, func(ctx context.Context) error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
			return errors.New("it does not end")
		}
	})
}
