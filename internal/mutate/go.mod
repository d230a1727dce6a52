module github.com/seed-829c304d/wsshard/internal/mutate

go 1.25.0
