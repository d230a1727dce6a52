package wsshard

// SetSeed makes the jitter of managers made from now on reproducible; 0 ends that.
func SetSeed(seed uint64) { testSeed = seed }
