module github.com/seed-829c304d/wsshard/internal/realworld/program

go 1.25.0

require golang.org/x/sys v0.47.0
