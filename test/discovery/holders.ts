// Processes that hold TAPs, for tests: QEMUs whose guests never run, and programs of any name.

import { type ChildProcess, spawn } from 'node:child_process'
import { copyFileSync, existsSync } from 'node:fs'
import path from 'node:path'
import { identify, isAlive, killProcess } from '../../src/hypervisor/shared/process.js'
import { libc } from '../../src/linux/libc.js'
import { openTap } from '../../src/linux/tap.js'
import { endWithUs, soon, until } from '../hypervisor/boot-guest.js'

export interface Held {
  readonly pid: number
  end(): Promise<void>
}

export interface QemuOptions {
  /** What comes before the command, as `ip netns exec …`. */
  readonly through?: readonly string[]
  readonly cwd?: string
  /** More of each `-netdev`. */
  readonly netdev?: string
  /** A file that is there when it is up; else its TAPs tell. */
  readonly ready?: string
}

/** A QEMU on these TAPs. Its CPUs never run. */
export async function startQemu(
  taps: readonly string[],
  args: readonly string[],
  options: QemuOptions = {},
): Promise<Held> {
  const nics = taps.flatMap((tap, nth) => [
    ...['-netdev', `tap,id=n${nth},ifname=${tap},script=no,downscript=no${options.netdev ?? ''}`],
    ...['-device', `virtio-net-pci,netdev=n${nth}`],
  ])
  const machine = ['-S', '-accel', 'tcg', '-m', '32', '-nodefaults', '-display', 'none']
  const command = [...(options.through ?? []), 'qemu-system-x86_64', ...machine, ...nics, ...args]
  const child = spawn(command[0]!, command.slice(1), {
    cwd: options.cwd ?? '/',
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let said = ''
  child.stderr!.on('data', (chunk) => {
    said += String(chunk)
  })
  const held = heldBy(child)
  await until('QEMU', () => {
    if (child.exitCode !== null) throw new Error(`QEMU ended: ${said}`)
    return options.ready === undefined || existsSync(options.ready)
  })
  return held
}

/** A program of this name that holds a TAP and does nothing with it. */
export async function startHolder(tap: string, program: string, directory: string): Promise<Held> {
  const file = path.join(directory, program)
  copyFileSync('/bin/sleep', file)
  const fd = openTap(tap)
  const child = spawn(file, ['600'], { stdio: ['ignore', 'ignore', 'ignore', fd] })
  await new Promise<void>((resolve, reject) => child.once('spawn', resolve).once('error', reject))
  libc().close(fd)
  return heldBy(child)
}

function heldBy(child: ChildProcess): Held {
  const identity = endWithUs(child.pid!)
  return {
    pid: child.pid!,
    end: async () => {
      if (isAlive(identity)) await killProcess(identity, soon(5000))
      await until('the end of a holder', () => identify(child.pid!) === null)
    },
  }
}
