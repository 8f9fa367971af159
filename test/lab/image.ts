// The tiny guest's image, and the accelerator that can run it on this machine.

import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { run, until } from './command.js'
import { repositoryRoot } from './repository.js'

export interface GuestImage {
  readonly kernel: string
  readonly initramfs: string
  /** The guest's program, which runs on this machine too. */
  readonly program: string
  /** `kvm` only where it was seen to boot this very kernel. */
  readonly accelerator: 'kvm' | 'tcg'
}

let image: Promise<GuestImage> | undefined

/** Builds the image when an input changed; finds the accelerator once per boot of this machine. */
export function guestImage(): Promise<GuestImage> {
  image ??= build()
  return image
}

async function build(): Promise<GuestImage> {
  const directory = (await run(join(repositoryRoot(), 'guest', 'build'), [], 600_000)).trim()
  const files = {
    kernel: join(directory, 'vmlinuz'),
    initramfs: join(directory, 'initramfs.cpio'),
    program: join(directory, 'lab'),
  }
  return { ...files, accelerator: await findAccelerator(directory, files.kernel, files.initramfs) }
}

async function findAccelerator(cache: string, kernel: string, initramfs: string): Promise<'kvm' | 'tcg'> {
  const file = join(cache, 'accelerator')
  const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
  try {
    const [seen, found] = readFileSync(file, 'utf8').trim().split(' ')
    if (seen === boot && (found === 'kvm' || found === 'tcg')) return found
  } catch {
    // Not looked yet.
  }
  const found = (await bootsUnderKvm(kernel, initramfs)) ? 'kvm' : 'tcg'
  writeFileSync(file, `${boot} ${found}\n`)
  return found
}

// /dev/kvm may be there and yet not run a stock kernel (nested in a microVM, say): only a boot tells.
async function bootsUnderKvm(kernel: string, initramfs: string): Promise<boolean> {
  const directory = mkdtempSync(join(tmpdir(), 'snapswitch-kvm-'))
  const console = join(directory, 'console')
  writeFileSync(console, '')
  const machine = ['-machine', 'pc,accel=kvm', '-m', '128', '-nodefaults', '-no-user-config', '-display', 'none']
  const boot = ['-kernel', kernel, '-initrd', initramfs, '-append', 'console=ttyS0 quiet panic=-1', '-no-reboot']
  const qemu = spawn('qemu-system-x86_64', [...machine, ...boot, '-serial', `file:${console}`], { stdio: 'ignore' })
  let ended = false
  const gone = new Promise<void>((resolve) => {
    const note = () => {
      ended = true
      resolve()
    }
    qemu.once('exit', note).once('error', note)
  })
  const booted = () => readFileSync(console, 'utf8').includes('@lab {"type":"start"')
  const answer = await until('KVM', 6_000, () => booted() || (ended ? false : undefined), 100).catch(() => false)
  qemu.kill('SIGKILL')
  await gone
  rmSync(directory, { recursive: true, force: true })
  return answer
}
