// fast-check with the same cases each time: what fails fails again, and nobody else's work waits for a chance find. New
// ones: SNAPSWITCH_TEST_SEED=N scripts/test FILTER, and for longer `npm run soak` and `npm run fuzz`.

import fc from 'fast-check'

fc.configureGlobal({ seed: Number(process.env.SNAPSWITCH_TEST_SEED ?? 1) })

export default fc
