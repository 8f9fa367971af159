// Real guests that can load a network: the tiny guest with iperf3, IPv6 and VLANs. What it lacks is laid over its
// initramfs (the kernel unpacks several archives one after another); commands go to the shell on its second serial
// port.

import { execFileSync, spawn } from 'node:child_process'
import { closeSync, cpSync, existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { createConnection, type Socket } from 'node:net'
import { basename, dirname, join } from 'node:path'
import { run, until } from '../lab/command.js'
import { GuestConsole } from '../lab/console.js'
import { guestArguments } from '../lab/guest.js'
import { guestImage } from '../lab/image.js'
import { end, identify, type ProcessId } from '../lab/processes.js'

/** In the order in which they are loaded. */
const MODULES = ['llc', 'stp', 'garp', 'mrp', '8021q']

/** A driver that offers nothing and takes nothing but finished frames of one MTU. */
const NO_OFFLOADS = [
  ...['csum', 'gso', 'host_tso4', 'host_tso6', 'host_ecn', 'host_ufo'],
  ...['guest_csum', 'guest_tso4', 'guest_tso6', 'guest_ecn', 'guest_ufo', 'mrg_rxbuf'],
].map((feature) => `${feature}=off`)

/** The guest's initramfs with iperf3, its libraries and the VLAN modules; returns the file. */
export async function initramfsWithIperf(directory: string): Promise<string> {
  const image = await guestImage()
  const root = join(directory, 'root')
  const program = (await run('sh', ['-c', 'command -v iperf3'])).trim()
  const libraries = [...(await run('ldd', [program])).matchAll(/(\/\S+) \(0x/g)].map(([, file]) => file)
  for (const file of [program, ...libraries]) {
    const to = join(root, file === program ? '/bin/iperf3' : file)
    mkdirSync(dirname(to), { recursive: true })
    cpSync(file, to, { dereference: true })
  }
  mkdirSync(join(root, 'lib/modules'), { recursive: true })
  const packages = join(dirname(image.kernel), 'packages')
  const found = await run('find', [packages, '-name', '*.ko'])
  for (const name of MODULES) {
    const file = found.split('\n').find((path) => basename(path) === `${name}.ko`)
    if (file !== undefined && existsSync(file)) cpSync(file, join(root, 'lib/modules', `${name}.ko`))
  }
  const archive = execFileSync('sh', ['-c', 'find . | cpio --quiet -o -H newc'], { cwd: root, maxBuffer: 64 << 20 })
  const file = join(directory, 'initramfs.cpio')
  writeFileSync(file, Buffer.concat([readFileSync(image.initramfs), archive]))
  return file
}

export interface OffloadGuestSpec {
  readonly name: string
  readonly number: number
  readonly directory: string
  readonly namespace: string
  readonly tap: string
  readonly initramfs: string
  readonly offloads: 'on' | 'off'
}

export class OffloadGuest {
  readonly name: string
  readonly id: ProcessId
  readonly #shell: Socket
  #said = ''
  #asked = 0

  private constructor(name: string, id: ProcessId, shell: Socket) {
    this.name = name
    this.id = id
    this.#shell = shell
    shell.setEncoding('utf8').on('data', (text: string) => {
      this.#said += text
    })
  }

  /** Boots it and gives it its addresses: 10.66.0.N, fd66::N, and 10.67.0.N in VLAN 7. */
  static async start(spec: OffloadGuestSpec, started: (id: ProcessId) => void): Promise<OffloadGuest> {
    const { name, number, directory, namespace, tap, initramfs } = spec
    const mac = `52:54:00:66:00:${number.toString(16).padStart(2, '0')}`
    const netdev = `tap,ifname=${tap},script=no,downscript=no`
    const job = { ip: `10.66.0.${number}/24` }
    const machine = { name, directory, mac, netdev, disk: null, job, memoryMiB: 192 }
    const image = await guestImage()
    const args = guestArguments(machine, { ...image, initramfs }).map((arg) => {
      if (arg.startsWith('virtio-net-pci,') && spec.offloads === 'off') return [arg, ...NO_OFFLOADS].join(',')
      return arg.replace('ipv6.disable=1', 'ipv6.disable=0 no_timer_check')
    })
    const log = openSync(join(directory, `${name}.log`), 'a')
    const child = spawn('ip', ['netns', 'exec', namespace, 'qemu-system-x86_64', ...args], {
      stdio: ['ignore', log, log],
    })
    closeSync(log)
    await new Promise<void>((resolve, reject) => child.once('spawn', resolve).once('error', reject))
    const id = identify(child.pid!)
    if (id === undefined) throw new Error(`${name} ended at once`)
    started(id)
    await new GuestConsole(join(directory, `${name}.console`)).started(90_000)
    const shell = createConnection(join(directory, `${name}.shell`))
    await new Promise<void>((resolve, reject) => shell.once('connect', resolve).once('error', reject))
    const guest = new OffloadGuest(name, id, shell)
    // The shell comes a moment after the job; what is written before it reads is lost in part.
    const listens = () =>
      guest.do('', 1000).then(
        () => true as const,
        () => undefined,
      )
    await until(`the shell of ${name}`, 60_000, listens)
    await guest.must(`for m in ${MODULES.join(' ')}; do insmod /lib/modules/$m.ko || exit 1; done`)
    // No duplicate address detection: the address is there at once.
    await guest.must('echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad')
    await guest.must(`ip -6 addr add fd66::${number}/64 dev eth0`)
    await guest.must('/bin/busybox vconfig add eth0 7 && ip link set eth0.7 up')
    await guest.must(`ip addr add 10.67.0.${number}/24 dev eth0.7`)
    await guest.must('iperf3 -s -D')
    return guest
  }

  /** Runs a line in the guest's shell; returns what it prints. */
  async do(line: string, timeoutMs = 20_000): Promise<string> {
    const mark = `:${++this.#asked}:`
    const from = this.#said.length
    // The mark is not in the echo of the line.
    this.#shell.write(`\n${line === '' ? '' : `${line}; `}echo "done"'${mark}'\n`)
    const ended = `done${mark}`
    const found = await until(`${this.name}: ${line}`, timeoutMs, () => {
      const at = this.#said.indexOf(ended, from)
      return at < 0 ? undefined : at
    })
    return this.#said.slice(from, found).replaceAll('\r', '')
  }

  /** The same for a line that must succeed. */
  async must(line: string): Promise<void> {
    const said = await this.do(`(${line}) && echo "succ"eeded`)
    if (!said.includes('succeeded')) throw new Error(`${this.name}: ${line}: ${said}`)
  }

  async destroy(): Promise<void> {
    this.#shell.destroy()
    await end([this.id], 0)
  }
}
