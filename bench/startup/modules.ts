// `snapswitch` of its compiled modules, with no bundle: what the bundle is measured against.

import { main } from '../../src/cli/entry.js'

process.on('SIGUSR1', () => {})
await main(process.argv)
