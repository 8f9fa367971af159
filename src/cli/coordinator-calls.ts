// How commands talk to the coordinator: a connection for one command, progress shown as it comes, a snapshot by the
// name that was given.

import { CoordinatorClient } from '../api/coordinator-client.js'
import { checkedName, nearest } from '../api/names.js'
import type { Manifest, Progress } from '../api/schemas.js'
import { SnapswitchError } from '../errors/errors.js'
import { type CommonOptions, coordinatorSocket } from './options.js'
import type { Terminal } from './output.js'
import { progressView } from './progress.js'

const whereToLook =
  '`snapswitch status` says whether it is under way, `snapswitch snapshot list` what snapshots there are.'

/** For a list of the snapshots: hundreds of manifests are read. */
export const listMs = 60_000

export async function withCoordinator<T>(
  options: CommonOptions,
  act: (client: CoordinatorClient) => Promise<T>,
): Promise<T> {
  const client = new CoordinatorClient(await coordinatorSocket(options))
  try {
    return await act(client)
  } finally {
    await client.close()
  }
}

/** Shows the steps; gives the last item. Throws the error that the stream ends with. */
export async function follow(
  terminal: Terminal,
  stream: AsyncIterable<Progress>,
  options: CommonOptions,
): Promise<Exclude<Progress, { type: 'step' | 'error' }>> {
  const view = progressView(terminal, { quiet: options.json === true && !terminal.live })
  const release = terminal.onInterrupt(() => {
    view.end()
    terminal.err(`interrupted; the coordinator goes on. ${whereToLook}\n`)
  })
  try {
    for await (const progress of stream) {
      if (progress.type === 'step') view.show(progress)
      else if (progress.type === 'error') throw SnapswitchError.fromReport(progress.error)
      else return progress
    }
  } finally {
    release()
    view.end()
  }
  throw new SnapswitchError(
    'SOCKET_UNREACHABLE',
    'the coordinator broke off before it was done',
    `See its log. ${whereToLook}`,
  )
}

/** `network/name` as it is; a name alone when only one network has such a snapshot. */
export async function resolveSnapshot(
  client: CoordinatorClient,
  given: string,
): Promise<{ network: string; name: string }> {
  const [first, second, ...more] = given.split('/')
  if (more.length > 0) checkedName('snapshot', given)
  if (second !== undefined) {
    return { network: checkedName('network', first as string), name: checkedName('snapshot', second) }
  }
  checkedName('snapshot', given)
  const all = await client.snapshots({ deadlineMs: listMs })
  const isMeant = (one: Manifest) => one.name === given
  // The hosts may know one that the coordinator does not.
  const found = all.some(isMeant)
    ? all.filter(isMeant)
    : (await client.snapshots({ deadlineMs: listMs, health: true })).filter(isMeant)
  if (found.length === 1) return found[0] as Manifest
  if (found.length > 1) {
    throw new SnapswitchError(
      'REQUEST_INVALID',
      `more than one network has a snapshot ${given}`,
      `Say which: ${found.map((m) => `${m.network}/${m.name}`).join(' or ')}.`,
    )
  }
  const meant = nearest(
    given,
    all.map((m) => m.name),
  )
  throw new SnapswitchError(
    'SNAPSHOT_UNKNOWN',
    `there is no snapshot ${given}`,
    meant === null ? 'See `snapswitch snapshot list`.' : `Did you mean ${meant}? See \`snapswitch snapshot list\`.`,
  )
}
