// The list of snapshots over the API, of a store that has seen many.

import { join } from 'node:path'
import t from 'tap'
import { createCoordinatorApi } from '../../coordinator/server.js'
import { CoordinatorClient } from '../../src/api/coordinator-client.js'
import { parseEndpoint } from '../../src/api/endpoint.js'
import { resolveSnapshot } from '../../src/cli/coordinator-calls.js'
import { fileLimit, patience } from '../patience.js'
import { silent } from './fake-switch.js'
import { manifestOf } from './fixtures.js'
import { lab } from './lab.js'

t.setTimeout(fileLimit(60_000))

const mib = 'x'.repeat(1 << 20)
const options = { deadlineMs: patience(30_000) }

t.test('a list of large snapshots', async (t) => {
  const { directory, catalogue, coordinator } = await lab(t)
  const socket = join(directory, 'coordinator.sock')
  const api = await createCoordinatorApi(coordinator, {
    endpoint: parseEndpoint(socket),
    logger: silent,
    version: '0.1.0',
  })
  await api.listen()
  const client = new CoordinatorClient(socket)
  t.teardown(async () => {
    await client.close()
    await api.close()
  })
  const written = manifestOf({ a: ['vm1'] })
  const [part] = written.parts
  const [member] = part!.members
  const manifest = (name: string, more: object) => ({
    ...written,
    name,
    parts: [{ ...part!, members: [{ ...member!, ...more }] }],
  })
  await catalogue.write(manifest('first', { definition: { kind: 'libvirt', xml: mib } }))

  const [first] = await client.snapshots(options)
  t.same(first, manifest('first', { definition: null }), 'what no list shows is left out')
  t.same(
    await client.snapshot('lab0', 'first', options),
    manifest('first', { definition: { kind: 'libvirt', xml: mib } }),
    'and is there when it is asked for by name',
  )

  for (let nth = 0; nth < 17; nth++) await catalogue.write(manifest(`n${nth}`, { warnings: [mib] }))
  t.equal((await client.snapshots(options)).length, 18)
  t.equal((await client.snapshots({ ...options, health: true })).length, 18)
  t.match(await resolveSnapshot(client, 'n3'), { network: 'lab0', name: 'n3' })
})
