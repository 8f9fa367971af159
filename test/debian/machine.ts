// A real Debian 12 under QEMU: its own kernel and systemd, from ./build; snapswitch as npm installs the package; and a
// shell to run things in. Commands go through a port of virtio-console, one at a time.

import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, cpSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { attempt, type CommandResult, run, sleep, until } from '../lab/command.js'
import { guestImage } from '../lab/image.js'
import { repositoryRoot } from '../lab/repository.js'
import { makePackage } from '../package/pack.js'
import { patience } from '../patience.js'
import { numberedProgram } from '../takeover/bridge-world.js'

interface Teardown {
  teardown(end: () => unknown): void
}

/** Why there is no such machine here. */
export class Unfit extends Error {}

/** The disk with Debian, its kernel and its initramfs. Throws Unfit. */
export async function debianDisk(): Promise<string> {
  const { code, stdout, stderr } = await attempt(join(repositoryRoot(), 'test', 'debian', 'build'), [], 900_000)
  if (code === 77) throw new Unfit(stderr.trim().split('\n').at(-1) ?? 'it cannot be built here')
  if (code !== 0) throw new Error(`test/debian/build ended with ${code}: ${stderr.slice(-2000)}`)
  return stdout.trim()
}

/** Where the machine has the repository, as far as tests there need it. */
export const REPOSITORY = '/usr/local/repository'
/** Tools of ours that no test loads; much the largest packages. */
const UNNEEDED = ['@biomejs', '@typescript', '@types', 'typescript', 'es-toolkit', 'react-dom', 'prismjs']

/** A file system for /usr/local: node, snapswitch as npm installs it, and what tests run there. Throws Unfit. */
export async function productDisk(t: Teardown): Promise<string> {
  const { directory, file } = await makePackage(t)
  const local = join(directory, 'local')
  const repository = join(local, 'repository')
  mkdirSync(join(local, 'bin'), { recursive: true })
  mkdirSync(repository)
  const options = ['--prefer-offline', '--no-audit', '--no-fund', '--loglevel=error']
  const { code, stderr } = await attempt('npm', ['install', '-g', '--prefix', local, ...options, file], 120_000)
  if (/ENOTFOUND|EAI_AGAIN|ETIMEDOUT|ECONNREFUSED|ENETUNREACH|ENOTCACHED/.test(stderr))
    throw new Unfit('the registry of npm cannot be reached')
  if (code !== 0) throw new Error(`npm install ended with ${code}: ${stderr.slice(-2000)}`)
  cpSync(process.execPath, join(local, 'bin', 'node'))
  await numberedProgram()
  const excluded = UNNEEDED.map((name) => `--exclude=node_modules/${name}`)
  const copied = ['package.json', 'bin', 'dist', 'node_modules', 'guest', 'test/debian/within', 'test/lab/guardian']
  const from = ['tar', '-C', repositoryRoot(), ...excluded, '-cf', '-', ...copied].join(' ')
  await run('bash', ['-o', 'pipefail', '-c', `${from} | tar -C ${repository} -xf -`], 60_000)
  const traffic = ['-O2', '-Wall', '-Wextra', '-static', '-o', join(local, 'bin', 'lab-traffic')]
  await run('gcc', [...traffic, join(repositoryRoot(), 'test', 'debian', 'traffic.c')])
  const disk = join(directory, 'local.img')
  await run('mke2fs', ['-q', '-t', 'ext4', '-m', '0', '-O', '^has_journal', '-d', local, disk, '512M'], 60_000)
  return disk
}

export class Machine {
  readonly directory: string
  readonly #child: ChildProcess
  readonly #ended: Promise<void>
  #over = false
  #shell: Socket | null = null
  #heard = ''

  private constructor(directory: string, child: ChildProcess) {
    this.directory = directory
    this.#child = child
    this.#ended = new Promise((resolve) => {
      const note = () => {
        this.#over = true
        resolve()
      }
      child.once('exit', note).once('error', note)
    })
  }

  /** Boots it; returns when its shell answers, which is before all services are up. Nothing on `disk` changes. */
  static async boot(t: Teardown, disk: string, product: string): Promise<Machine> {
    const directory = mkdtempSync(join(tmpdir(), 'ssw-debian-'))
    const { accelerator } = await guestImage()
    const words = ['root=/dev/vda', 'ro', 'console=ttyS0', 'no_timer_check', 'panic=-1', 'loglevel=4']
    const args = ['-machine', 'pc', '-accel', accelerator, '-smp', '2', '-m', '1536', '-display', 'none']
    args.push('-nodefaults', '-no-user-config')
    args.push('-kernel', join(disk, 'vmlinuz'), '-initrd', join(disk, 'initrd'), '-append', words.join(' '))
    const drive = (file: string, more: string) => ['-drive', `file=${file},format=raw,if=virtio,${more}`]
    args.push(...drive(join(disk, 'disk.img'), 'snapshot=on'), ...drive(product, 'read-only=on'))
    args.push('-chardev', `file,id=console,path=${join(directory, 'console')}`, '-serial', 'chardev:console')
    args.push('-chardev', `socket,id=shell,path=${join(directory, 'shell')},server=on,wait=off`)
    args.push('-device', 'virtio-serial-pci', '-device', 'virtserialport,chardev=shell,name=lab')
    args.push('-device', 'virtio-rng-pci')
    const log = openSync(join(directory, 'log'), 'a')
    // It ends with us, whatever ends us. In TMPDIR: what changes on the disk.
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', 'qemu-system-x86_64', ...args], {
      stdio: ['ignore', log, log],
      env: { ...process.env, TMPDIR: directory },
    })
    closeSync(log)
    const machine = new Machine(directory, child)
    t.teardown(() => machine.#destroy())
    await machine.#waitForShell()
    return machine
  }

  async #destroy(): Promise<void> {
    this.#shell?.destroy()
    this.#child.kill('SIGKILL')
    await this.#ended
    rmSync(this.directory, { recursive: true, force: true })
  }

  /** What it has written to its console, the end of it. */
  console(): string {
    const said = ['log', 'console'].map((name) => join(this.directory, name)).filter(existsSync)
    return said.map((file) => readFileSync(file, 'latin1').slice(-3000)).join('\n')
  }

  /** Also after a reboot. */
  async #waitForShell(): Promise<void> {
    await until('the machine’s shell', 240_000, async () => {
      if (this.#over) throw new Error(`QEMU ended: ${this.console()}`)
      this.#heard = ''
      this.#shell ??= await this.#connect()
      // What is written before the port is open within goes nowhere.
      this.#shell?.write('\necho shell-$((40+2))\n')
      await sleep(500)
      return this.#heard.includes('shell-42') ? true : undefined
    }).catch((error) => {
      throw new Error(`${error.message}\n${this.console()}`)
    })
    // Answers to the questions before.
    await sleep(500)
    await this.attempt('true', 10_000)
  }

  /** Returns when its shell answers again. */
  async reboot(): Promise<void> {
    const boot = 'cat /proc/sys/kernel/random/boot_id'
    const before = await this.run(boot)
    // This shell hears nothing any more: what answers is the next one.
    this.#shell!.write('systemctl --no-block reboot; exec sleep infinity\n')
    await this.#waitForShell()
    if ((await this.run(boot)) === before) throw new Error('it has not booted anew')
  }

  #connect(): Promise<Socket | null> {
    return new Promise((resolve) => {
      const socket = connect(join(this.directory, 'shell'))
      socket.on('data', (chunk) => {
        this.#heard += chunk.toString('latin1')
      })
      socket.once('connect', () => resolve(socket)).on('error', () => resolve(null))
    })
  }

  #commands = 0

  /** Runs a script of bash to its end. Rejects when it outlives `timeoutMs` (of a quiet machine); it is ended then. */
  async attempt(script: string, timeoutMs = 60_000): Promise<CommandResult> {
    const mark = `end-${++this.#commands}`
    const limit = Math.ceil(patience(timeoutMs) / 1000)
    const quoted = `'${script.replaceAll("'", `'\\''`)}'`
    this.#heard = ''
    this.#shell!.write(
      `timeout -k 5 ${limit} bash -c ${quoted} </dev/null >/run/said 2>/run/errors; ` +
        `echo "$?" >/run/code; base64 -w0 /run/said; echo; base64 -w0 /run/errors; echo; echo "$(cat /run/code) ${mark}"\n`,
    )
    const found = await until(
      `the end of: ${script}`,
      timeoutMs + 30_000,
      () => (this.#heard.endsWith(` ${mark}\n`) ? this.#heard.split('\n').slice(-4, -1) : undefined),
      20,
    )
    const text = (base64: string) => Buffer.from(base64, 'base64').toString()
    const [stdout, stderr, end] = found as [string, string, string]
    const result = { code: Number.parseInt(end, 10), stdout: text(stdout), stderr: text(stderr) }
    if (result.code === 124 || result.code === 137)
      throw new Error(
        `did not end within ${limit} s: ${script}\n${result.stdout.slice(-2000)}\n${result.stderr.slice(-2000)}`,
      )
    return result
  }

  /** Standard output of a script that must succeed. */
  async run(script: string, timeoutMs?: number): Promise<string> {
    const { code, stdout, stderr } = await this.attempt(script, timeoutMs)
    if (code === 0) return stdout
    throw new Error(`ended with ${code}: ${script}\n${stdout.slice(-2000)}\n${stderr.slice(-2000)}`)
  }
}
