// Files that root opens for a machine's user: what that user can read, and nothing else.

import { chmodSync, chownSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { stat } from 'node:fs/promises'
import path from 'node:path'
import t from 'tap'
import { openAsUser } from '../../src/hypervisor/shared/as-user.js'
import { fileReference } from '../../switch/agent/snapshot/part.js'
import { fileLimit } from '../patience.js'
import { root } from '../switch/world.js'
import { scratch } from './machines.js'

t.setTimeout(fileLimit(30_000))

const uid = 45_079
const user = { uid, gid: uid, groups: [uid + 1] }

t.test('what the user can read', root, async (t) => {
  const home = scratch('home')
  chmodSync(home, 0o755)
  const make = (name: string, owner: number, group: number, mode: number) => {
    const file = path.join(home, name)
    writeFileSync(file, name)
    chownSync(file, owner, group)
    chmodSync(file, mode)
    return file
  }
  const store = { reference: async (file: string) => ({ path: file, ...(await described(file)) }) }
  const described = async (file: string) => ({
    bytes: (await stat(file)).size,
    digest: readFileSync(file, 'utf8'),
  })
  const digested = (file: string) => fileReference(store, file, user, new AbortController().signal)
  for (const [name, owner, group, mode] of [
    ['its own', uid, uid, 0o400],
    ['of a further group', 0, uid + 1, 0o640],
    ['of all', 0, 0, 0o644],
  ] as const) {
    const file = make(name, owner, group, mode)
    t.same(await digested(file), { path: file, bytes: name.length, digest: name })
  }
  const secret = make('secret', 0, 0, 0o600)
  const link = path.join(home, 'kernel')
  symlinkSync(secret, link)
  mkdirSync(path.join(home, 'closed'), { mode: 0o700 })
  for (const file of [secret, link, make('closed/of all', 0, 0, 0o644)]) {
    await t.rejects(digested(file), { code: 'PERMISSION' }, file)
    await t.rejects(openAsUser(user, file), { code: 'PERMISSION' }, file)
  }
})
