// Runs `snapswitch` for tests, of its modules: `node kill-at-change.js bin/snapswitch …`. SNAPSWITCH_TEST_CHANGE names
// a file; from when it is there, and says N, the daemon is killed (SIGKILL) right before the Nth change that it makes
// to network devices or packet filters. `after N` is right after that change.

import { readFileSync } from 'node:fs'
import { main } from '../../src/cli/entry.js'
import { NetlinkSocket } from '../../src/linux/netlink.js'

const file = process.env.SNAPSWITCH_TEST_CHANGE ?? ''
const { request, batch } = NetlinkSocket.prototype
let changes = 0
/** Requests whose type is 2 modulo 4 ask; the others change something (rtnetlink(7)). */
const ASKS = 2
/** Those of nfnetlink that are no batch ask. */
const LAST_OF_ROUTE = 0xff

function planned(): { readonly at: number; readonly after: boolean } | null {
  try {
    const [, after, at] = /^(after )?(\d+)$/.exec(readFileSync(file, 'utf8')) ?? []
    return at === undefined ? null : { at: Number(at), after: after !== undefined }
  } catch {
    return null
  }
}

function count<T>(change: () => T): T {
  const plan = planned()
  if (plan === null) return change()
  const isIt = ++changes === plan.at
  if (isIt && !plan.after) process.kill(process.pid, 'SIGKILL')
  const result = change()
  if (isIt) process.kill(process.pid, 'SIGKILL')
  return result
}

NetlinkSocket.prototype.request = function (this: NetlinkSocket, ...args) {
  if (args[1] > LAST_OF_ROUTE || args[1] % 4 === ASKS) return request.apply(this, args)
  return count(() => request.apply(this, args))
}
NetlinkSocket.prototype.batch = function (this: NetlinkSocket, ...args) {
  return count(() => batch.apply(this, args))
}

process.argv.splice(1, 1)
await main(process.argv)
