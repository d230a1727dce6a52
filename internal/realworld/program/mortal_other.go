//go:build !linux

package program

import "os/exec"

// This file answers: what becomes of a program where the system does not end it with its parent? A Peer sees its input end.

func mortal(*exec.Cmd) {}
