// kill -9 of the daemon at every change that taking a bridge over and giving it back make to devices and packet
// filters: the kernel's bridge forwards again by itself, as it was found, and the next daemon or `give` finds what is
// left.

import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import t from 'tap'
import { until } from '../lab/command.js'
import { repositoryRoot } from '../lab/repository.js'
import { fileLimit, patience } from '../patience.js'
import { root, type Switch, World } from '../switch/world.js'
import { bridgeHost, container, found, HOST_ADDRESS } from './bridge-world.js'

t.setTimeout(fileLimit(400_000))
const CALL = { deadlineMs: patience(20_000) }
const killable = [await inOneFile(new URL('./kill-at-change.js', import.meta.url))]
const program = join(repositoryRoot(), 'bin', 'snapswitch')
/** More than a takeover of two ports makes. */
const MOST_CHANGES = 60

/** A program that is made of modules, as one file: dozens of daemons start from it, in half of the time. */
async function inOneFile(program: URL): Promise<string> {
  const path = fileURLToPath(program)
  const beside = new URL('../../bundle/start.js', import.meta.url)
  const { isFresh } = (await import(beside.href).catch(() => ({ isFresh: () => false }))) as { isFresh(): boolean }
  if (!isFresh()) return path
  const outfile = `${path.slice(0, -3)}.${process.pid}.mjs`
  t.teardown(() => rmSync(outfile, { force: true }))
  await build({
    entryPoints: [path],
    outfile,
    bundle: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    external: ['koffi'],
    // The threads and processes that it starts lie in the product's bundle.
    define: { 'import.meta.url': JSON.stringify(beside.href) },
    banner: {
      js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.dirname + '/');",
    },
    logLevel: 'error',
  })
  return outfile
}

const reaches = async (world: World) =>
  (await world.pings('c1', '192.0.2.12')).code === 0 && (await world.pings('c1', HOST_ADDRESS)).code === 0

const isTaken = async ({ client }: Switch) => (await client.bridges(CALL)).some(({ taken }) => taken)

for (const what of ['take', 'give'] as const) {
  t.test(`killed at every change that \`${what}\` makes`, root, async (t) => {
    const world = World.for(t)
    await bridgeHost(world)
    await container(world, 'c1', '192.0.2.11')
    await container(world, 'c2', '192.0.2.12')
    await until('the bridge forwards', 20_000, async () => ((await reaches(world)) ? true : undefined))
    const before = JSON.stringify(await found(world))
    const file = join(world.directory, 'change')
    process.env.SNAPSWITCH_TEST_CHANGE = file

    /** Whether the daemon was killed on the way. */
    const killedAt = async (plan: string): Promise<boolean> => {
      const daemon = await world.switch('h', { networks: {} }, killable)
      if (what === 'give' && !(await isTaken(daemon))) await daemon.client.takeBridge({ bridge: 'br0' }, CALL)
      if (what === 'take' && (await isTaken(daemon))) await daemon.client.giveBridge('br0', CALL)
      writeFileSync(file, plan)
      const call =
        what === 'take' ? daemon.client.takeBridge({ bridge: 'br0' }, CALL) : daemon.client.giveBridge('br0', CALL)
      const outcome = await call.then(
        () => 'done',
        () => 'failed',
      )
      rmSync(file)
      if (outcome === 'failed') await until('its end', 10_000, () => (daemon.running ? undefined : true))
      const wasRunning = daemon.running
      await daemon.kill()
      return !wasRunning
    }

    let changes = 0
    let killed = true
    for (; killed && changes < MOST_CHANGES; changes++) {
      killed = await killedAt(`${changes + 1}`)
      await asFound(`killed before change ${changes + 1}`)
      if (changes % 3 === 0) await givenWithoutDaemon()
    }
    t.ok(changes > 5 && changes < MOST_CHANGES, `${changes - 1} changes`)
    t.ok(await killedAt(`after ${changes - 1}`), 'after the last one')
    await asFound('killed after the last change')

    const daemon = await world.switch('h', { networks: {} })
    if (await isTaken(daemon)) await daemon.client.giveBridge('br0', CALL)
    await daemon.client.takeBridge({ bridge: 'br0' }, CALL)
    t.ok(await reaches(world), 'taken after all')
    await daemon.client.giveBridge('br0', CALL)
    await asFound('given')

    async function asFound(when: string): Promise<void> {
      const now = async () => `${await world.in('h', 'nft', 'list', 'ruleset')}${JSON.stringify(await found(world))}`
      await until('all as it was', 20_000, async () => ((await now()) === before ? true : undefined)).catch(
        () => undefined,
      )
      t.equal(await now(), before, `as found: ${when}`)
      t.ok(await reaches(world), `forwards: ${when}`)
    }

    async function givenWithoutDaemon(): Promise<void> {
      const options = ['--socket', world.socket('h'), '--state', world.state('h')]
      const { code, stderr } = await world.try('h', program, 'give', 'br0', ...options)
      t.ok(code === 0 || /BRIDGE_NOT_TAKEN/.test(stderr), `give without a daemon: ${stderr}`)
      t.match(await world.try('h', program, 'give', 'br0', ...options), { code: 1, stderr: /BRIDGE_NOT_TAKEN/ })
    }
  })
}

t.test('killed while it takes again what it had, a daemon leaves that to the next one', root, async (t) => {
  const world = World.for(t)
  await bridgeHost(world)
  await container(world, 'c1', '192.0.2.11')
  await container(world, 'c2', '192.0.2.12')
  const first = await world.switch('h', { networks: {} })
  await first.client.takeBridge({ bridge: 'br0' }, CALL)
  await first.kill()
  const file = join(world.directory, 'change')
  process.env.SNAPSWITCH_TEST_CHANGE = file
  let killed = 0
  for (let at = 1; at < MOST_CHANGES; at += 3) {
    writeFileSync(file, `${at}`)
    const daemon = await world.switch('h', { networks: {} }, killable).catch((thrown: Error) => {
      if (!/the switch of h ended/.test(thrown.message)) throw thrown
      return null
    })
    if (daemon !== null) {
      t.ok(await isTaken(daemon), `after ${killed} daemons that were killed, it is taken`)
      t.ok(await reaches(world))
      break
    }
    killed++
  }
  t.ok(killed > 2, `${killed} were killed`)
})
