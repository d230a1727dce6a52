package program

import (
	"os/exec"
	"syscall"
)

// This file answers: what becomes of a program when the test that started it is killed?

// mortal makes a program end with the thread that starts it, and so with this process: no thread of ours ends sooner, see In. The
// program leads a group of its own, to be signalled with all that it starts.
func mortal(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Pdeathsig = true, syscall.SIGKILL
}
