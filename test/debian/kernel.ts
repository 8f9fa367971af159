// Tests that ask more of the kernel than the one they mostly run on may have, or something else of an older one: VLANs
// in bridges, ebtables, bonds, no hook for a handover. Run in the Debian machine, as one process.

import t from 'tap'
import { fileLimit } from '../patience.js'

// Before the first of them is loaded, which takes its time.
t.setTimeout(fileLimit(600_000))
await import('../takeover/vlans.test.js')
await import('../switch/bridge-rules.test.js')
await import('../takeover/filters.test.js')
await import('../takeover/nics.test.js')
// They have set their own.
t.setTimeout(fileLimit(600_000))
