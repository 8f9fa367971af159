// libvirtd is killed at some instant of a snapshot of libvirt domains, of its deletion or restore, and started again:
// what was under way ends `complete` or `failed`, nothing is stuck or left, libvirt's view is true, and the next
// snapshot succeeds.

import { existsSync, readdirSync, truncateSync, writeFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import { CoordinatorClient } from '../../src/api/coordinator-client.js'
import type { Manifest } from '../../src/api/schemas.js'
import { SwitchClient } from '../../src/api/switch-client.js'
import { readCounts, readReport, until } from '../hypervisor/boot-guest.js'
import type { LibvirtDaemon, TestDomain } from '../hypervisor/libvirt-daemon.js'
import { isGapless } from '../hypervisor/machines.js'
import { startLibvirt, withDomains } from '../lab/domains.js'
import { Lab } from '../lab/lab.js'
import { fileLimit, patience } from '../patience.js'
import { root } from './world.js'

t.setTimeout(fileLimit(280_000))

const names = ['qcow2', 'raw'] as const
const job = { ip: '10.77.0.1/24' }
const LONG = { deadlineMs: patience(60_000) }

class Domains {
  readonly lab: Lab
  readonly libvirt: LibvirtDaemon
  readonly all: TestDomain[] = []
  /** Says when libvirtd dies: kill-hook.ts. Outside, and as the host's daemon has it. */
  readonly #instant: string
  readonly #clients: (CoordinatorClient | SwitchClient)[] = []
  #count = 0

  private constructor(lab: Lab, libvirt: LibvirtDaemon) {
    this.lab = lab
    this.libvirt = libvirt
    this.#instant = lab.host('a').outside(lab.host('a').inside('instant'))
  }

  static async start(t: Test): Promise<Domains> {
    const machines = names.map((name) => ({ name, host: 'a', job }))
    const lab = await Lab.build({ network: 'lab0', hosts: ['a'], machines })
    t.teardown(async () => {
      if (!t.passing()) for (const line of lab.lastWords(60)) t.comment(line)
      await lab.destroy()
    })
    const libvirt = await startLibvirt(lab, 'a')
    t.teardown(() => libvirt.end())
    const domains = new Domains(lab, libvirt)
    t.teardown(() => Promise.all(domains.#clients.map((client) => client.close())))
    process.env.NODE_OPTIONS = `--import ${new URL('./kill-hook.js', import.meta.url).href}`
    process.env.SNAPSWITCH_TEST_KILL_OTHER = lab.host('a').inside('instant')
    await lab.startSwitch('a', withDomains(lab.switchConfig('a'), names, libvirt))
    delete process.env.NODE_OPTIONS
    await lab.startCoordinator()
    for (const [number, name] of names.entries()) {
      domains.all.push(await libvirt.domain(name, { format: name, taps: [lab.machine(name).tap], number }))
    }
    return domains
  }

  /** New ones for each request: virsh halts this process for seconds, in which daemons close idle connections. */
  get coordinator(): CoordinatorClient {
    return this.#closed(new CoordinatorClient(this.lab.coordinatorSocket))
  }

  get daemon(): SwitchClient {
    return this.#closed(new SwitchClient(this.lab.switchSocket('a')))
  }

  /** In the end. */
  #closed<T extends CoordinatorClient | SwitchClient>(client: T): T {
    this.#clients.push(client)
    return client
  }

  /** Has libvirtd killed at that instant of what `work` does, and starts it again; `work`'s result, or its error. */
  async killedAt<T>(instant: string, work: () => Promise<T>): Promise<T | Error> {
    writeFileSync(this.#instant, `${instant} ${this.libvirt.pid}`)
    const result = work().catch((error: Error) => error)
    const early = result.then((came) => {
      if (existsSync(this.#instant))
        throw new Error(`it ended before ${instant}: ${came instanceof Error ? came.message : 'well'}`)
    })
    await Promise.race([early, until('the instant', () => !existsSync(this.#instant), 60_000)])
    await this.libvirt.stop('SIGKILL')
    await this.libvirt.launch()
    return result
  }

  async create(): Promise<Manifest> {
    const request = { network: 'lab0', name: `s${++this.#count}`, record: true }
    for await (const event of this.coordinator.create(request, LONG)) {
      if (event.type === 'manifest') return event.manifest
      if (event.type === 'error') throw new Error(event.error.message)
    }
    throw new Error('no answer')
  }

  /** The last one. */
  last(): Promise<Manifest> {
    return this.coordinator.snapshot('lab0', `s${this.#count}`, LONG)
  }

  async delete(): Promise<void> {
    await this.coordinator.delete('lab0', `s${this.#count}`, LONG)
  }

  async restore(): Promise<void> {
    for await (const event of this.coordinator.restore('lab0', `s${this.#count}`, {}, LONG)) {
      if (event.type === 'restored') return
      if (event.type === 'error') throw new Error(event.error.message)
    }
    throw new Error('no answer')
  }

  /** All images in use: QEMU's own view. */
  #open(name: string): string[] {
    const answer = this.libvirt.virsh('qemu-monitor-command', name, '{"execute":"query-block"}')
    return [...answer.matchAll(/"file":"(\/[^"]+)"/g)].map(([, file]) => file!)
  }

  async areWell(t: Test, disks: (name: string) => string): Promise<void> {
    const ports = await this.daemon.ports(LONG)
    t.same(
      ports.map(({ gate }) => gate),
      ['open', 'open'],
      'gates',
    )
    for (const domain of this.all) {
      const { name } = domain
      await this.libvirt.runs(domain)
      t.equal(this.libvirt.virsh('domstate', name), 'running', `${name}: domstate`)
      t.same(this.libvirt.disks(name), { vda: disks(name) }, `${name}: domblklist`)
      t.same(this.libvirt.disks(name, true), { vda: disks(name) }, `${name}: stored configuration`)
      t.match(this.libvirt.virsh('dumpxml', name), `<source file='${disks(name)}'`, `${name}: dumpxml`)
      t.equal(this.libvirt.virsh('snapshot-list', name), '', `${name}: snapshot-list`)
      t.match(
        this.libvirt.virsh('blockjob', name, 'vda', '--info'),
        /^(No current block job.*)?$/,
        `${name}: block job`,
      )
      t.match(
        this.libvirt.virsh('qemu-monitor-command', name, '{"execute":"query-jobs"}'),
        '"return":[]',
        `${name}: jobs`,
      )
      t.equal(this.#open(name)[0], disks(name), `${name}: what QEMU uses`)
      t.ok(isGapless(readCounts(domain.serial)), `${name}: nothing missed, nothing twice`)
      t.equal(readReport(domain.serial).complaints, '', `${name}: memory and disk of one piece`)
    }
  }

  /** Images beside the domains' own. */
  overlays(): string[] {
    return readdirSync(this.libvirt.directory).filter((file) => /\.s\d+-e.*qcow2$/.test(file))
  }
}

t.test('libvirtd is killed and started again', root, async (t) => {
  const domains = await Domains.start(t)
  const { libvirt } = domains
  const own = (name: string) => domains.all.find((domain) => domain.name === name)!.disk
  const instants = ['after:snapshot', 'before:migrate', 'after:stop', 'before:block-job-set-speed']
  for (const instant of instants) {
    await t.test(instant, async (t) => {
      const result = await domains.killedAt(instant, () => domains.create())
      t.comment(result instanceof Error ? result.message : result.state)
      const { name, state } = await domains.last()
      t.equal(state, result instanceof Error ? 'failed' : 'complete')
      if (state === 'complete') t.equal((await domains.coordinator.audit('lab0', name, LONG)).verdict, 'consistent')
      await domains.delete()
      await domains.areWell(t, own)
      t.same(domains.overlays(), [])
      t.equal((await domains.create()).state, 'complete', 'the next snapshot')
      await domains.delete()
      t.same(domains.overlays(), [])
    })
  }
  await t.test('in a deletion', async (t) => {
    await domains.create()
    t.equal(await domains.killedAt('before:blockPivot', () => domains.delete()), undefined)
    await domains.areWell(t, own)
    t.same(domains.overlays(), [])
  })
  await t.test('in a restore', async (t) => {
    await domains.create()
    for (const instant of ['before:define', 'before:resume']) {
      for (const { name, serial } of domains.all) {
        libvirt.virsh('destroy', name)
        truncateSync(serial)
      }
      const restored = await domains.killedAt(instant, () => domains.restore())
      t.comment(`${instant}: ${restored instanceof Error ? restored.message : 'restored'}`)
      if (restored instanceof Error) await domains.restore()
      await domains.areWell(t, (name) => libvirt.disks(name).vda!)
    }
    t.equal((await domains.create()).state, 'complete', 'the next snapshot')
  })
})
