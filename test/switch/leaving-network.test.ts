// What the API shows while a change of the configuration takes a network away: the datapath has lost it, and it is
// wanted until the change is done. All behind the API is made up.

import { join } from 'node:path'
import t, { type Test } from 'tap'
import { parseEndpoint } from '../../src/api/endpoint.js'
import { createApi } from '../../src/api/server.js'
import { SwitchClient } from '../../src/api/switch-client.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import { addRoutes } from '../../switch/server.js'
import { silent, workDirectory } from '../coordinator/fake-switch.js'
import { fileLimit, patience } from '../patience.js'

t.setTimeout(fileLimit(60_000))

/** Networks lab0 and lab1 are wanted; `has` are there, and `answers` of these say so. */
async function api(t: Test, has: readonly string[], answers: readonly string[]): Promise<SwitchClient> {
  const socket = join(await workDirectory(t), 'switch.sock')
  const { app, listen, close } = await createApi({
    endpoint: parseEndpoint(socket),
    logger: silent,
    title: 'made up',
    version: '1',
  })
  const datapath = {
    bootId: '0',
    restarts: 0,
    fastPath: 'auto',
    fastPathTrouble: null,
    hasNetwork: (network: string) => has.includes(network),
    call: async (name: string, { network }: { network: string }) => {
      if (!answers.includes(network))
        throw new SnapswitchError('NETWORK_UNKNOWN', `no network ${network} here`, 'None.')
      return name === 'paths' ? [] : { epoch: 3, fdbEntries: 0, peers: [] }
    },
  }
  const daemon = {
    host: {
      name: 'h',
      version: '1',
      datapath,
      ports: { all: () => [], waitingIn: () => [], info: () => [] },
      machines: { names: () => [] },
      holders: { undriven: () => [] },
      coordinator: null,
    },
    agent: { busy: () => null },
    wanted: { networks: () => ['lab0', 'lab1'] },
    bridges: { list: () => [] },
  }
  addRoutes(app, daemon as never)
  await listen()
  const client = new SwitchClient(socket)
  t.teardown(async () => {
    await client.close()
    await close()
  })
  return client
}

t.test('a network that goes is left out', async (t) => {
  const client = await api(t, ['lab0'], ['lab0'])
  const { networks } = await client.status({ deadlineMs: patience(5000) })
  t.same(
    networks.map(({ name, epoch }) => [name, epoch]),
    [['lab0', 3]],
  )
  t.same(await client.ports({ deadlineMs: patience(5000) }), [])
})

t.test('one that is there and does not answer is an error', async (t) => {
  const client = await api(t, ['lab0', 'lab1'], ['lab0'])
  await t.rejects(client.status({ deadlineMs: patience(5000) }), { code: 'NETWORK_UNKNOWN' })
  await t.rejects(client.ports({ deadlineMs: patience(5000) }), { code: 'NETWORK_UNKNOWN' })
})
