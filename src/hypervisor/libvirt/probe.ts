// What this host's libvirt offers for saving and running domains, asked of libvirtd itself. For `snapswitch doctor`.

import { readFileSync } from 'node:fs'
import { asSnapswitchError } from '../../errors/errors.js'
import { readPlain, readPlainSync } from '../../files/plain.js'
import { within } from '../shared/deadline.js'
import type { Finding } from '../shared/probe.js'
import { type Confinement, readConfinement } from './domain-xml.js'
import { LibvirtProcess } from './process-handle.js'
import type { OpenResult } from './protocol.js'

/** For all questions together. */
const answerMs = 5000
const minimumQemu = 6
/** Of a configuration of libvirt's or AppArmor's. */
const fileLimit = 1 << 20
/** virDomainQemuMonitorCommandWithFiles came with 8.2.0. */
const minimumLibvirt = [8, 2] as const

export interface LibvirtFindings {
  /** Whether it is installed, runs and drives QEMU. */
  readonly libvirt: Finding
  /** Whether domains are saved behind a running guest; null when there is no libvirt to ask. */
  readonly background: Finding | null
  /** Whether a security driver stands in the way of what is not libvirt's own; null when there is no libvirt to ask. */
  readonly confinement: Finding | null
}

/**
 * From here on libvirt gives QEMU's user /dev/userfaultfd, if not earlier: 11.3 does (Debian 13), 9.0 does not. QEMU
 * opens it since 8.0.
 */
const userfaultfdDevice = { libvirt: [11, 3], qemu: 8 } as const

const isAtLeast = (version: string, [least, leastMinor]: readonly [number, number]): boolean => {
  const [major = 0, minor = 0] = version.split('.').map(Number)
  return major > least || (major === least && minor >= leastMinor)
}

/** Why this libvirt cannot pass QEMU a descriptor to save into; null when it can. */
export function libvirtObstacle(version: string): string | null {
  if (isAtLeast(version, minimumLibvirt)) return null
  return `libvirt ${version} is older than ${minimumLibvirt.join('.')} and passes no descriptors to QEMU`
}

/** Whether QEMU needs no privilege to be told of writes to its memory. */
export function everyoneMayUseUserfaultfd(): boolean {
  try {
    return readFileSync('/proc/sys/vm/unprivileged_userfaultfd', 'latin1').trim() === '1'
  } catch {
    return false
  }
}

export const userfaultfdHint =
  'libvirt takes QEMU’s privileges away, so it needs the sysctl vm.unprivileged_userfaultfd=1 ' +
  '(/etc/sysctl.d/, then `sysctl --system`)'

function keepsCapabilities(configuration: string): boolean {
  try {
    return /^\s*clear_emulator_capabilities\s*=\s*0\s*$/m.test(
      readPlainSync(configuration, fileLimit).bytes.toString('utf8'),
    )
  } catch {
    return false
  }
}

/** Debian's place for what this host adds to the AppArmor profile of every domain. */
const localRules = '/etc/apparmor.d/local/abstractions/libvirt-qemu'
/** Names of disk copies (disk-copies.ts): DISK.SNAPSHOT-eEPOCH-2.qcow2. */
const copyRule = '/**/*-e[0-9]*-[0-9]*.qcow2 rwk,'

/**
 * A domain's AppArmor profile has the images that its XML names (virt-aa-helper), and those of libvirt's own calls;
 * SELinux labels the same. So overlays are allowed, copies that QEMU opens by path are not. A passed pipe is: AppArmor
 * looks at neither pipes nor what an unconfined process has opened (security/apparmor/file.c, aa_file_perm). `rules`:
 * localRules.
 */
export function confinementFinding(driver: string | null, rules: string): Finding {
  if (driver === null) return { ok: true, detail: 'no security driver confines QEMU', cost: null }
  const detail = `${driver} confines QEMU to images that libvirt knows`
  if (driver === 'apparmor' && /^\s*[^#\s]\S*\.qcow2"?\s+\w*w\w*,/m.test(rules)) {
    return { ok: true, detail: `${detail}, and to qcow2 images by a rule of this host (${localRules})`, cost: null }
  }
  const cost = 'Snapshots work, but disks are switched over while domains stand still: some tens of milliseconds more.'
  const how =
    driver === 'apparmor'
      ? `To let QEMU open the copies of disks, add the line \`${copyRule}\` to ${localRules}: each domain may then ` +
        'open all such copies. It holds for domains that are started after that.'
      : 'Where QEMU may not take a descriptor either, they stand still while their memory is written.'
  const none = `Or take a domain out of it: <seclabel type='none' model='${driver}'/> in its XML.`
  return { ok: false, detail, cost: `${cost} ${how} ${none}` }
}

/** `configuration` is libvirt's qemu.conf. Starts a process for the time of the question. Never throws. */
export async function probeLibvirt(
  uri = 'qemu:///system',
  configuration = '/etc/libvirt/qemu.conf',
): Promise<LibvirtFindings> {
  const libvirt = new LibvirtProcess()
  const lane = libvirt.lane(() => {})
  const limit = within(answerMs)
  const ask = (call: 'open' | 'capabilities') => libvirt.call({ lane, uri, watch: null, call, args: {} }, limit)
  try {
    const versions = (await ask('open')) as OpenResult
    const confinement = readConfinement((await ask('capabilities')) as string)
    const qemu = versions.hypervisor
    if (qemu === null) {
      const cost = 'No domain can run. Install QEMU: `apt-get install qemu-system-x86`.'
      return {
        libvirt: { ok: false, detail: `libvirt ${versions.libvirt} finds no QEMU`, cost },
        background: null,
        confinement: null,
      }
    }
    const detail = `libvirt ${versions.libvirt} with QEMU ${qemu}`
    return {
      libvirt: { ok: true, detail, cost: null },
      background: backgroundFinding(versions.libvirt, qemu, confinement, keepsCapabilities(configuration)),
      confinement: confinementFinding(
        confinement.driver,
        (await readPlain(localRules, fileLimit).catch(() => '')).toString(),
      ),
    }
  } catch (thrown) {
    const { message, action } = asSnapswitchError(thrown)
    const cost = `Domains of libvirt cannot be snapshot or restored here; plain QEMUs can. ${action}`
    return { libvirt: { ok: false, detail: message, cost }, background: null, confinement: null }
  } finally {
    libvirt.end()
  }
}

function backgroundFinding(version: string, qemu: string, { user, driver }: Confinement, keeps: boolean): Finding {
  const none = 'Domains stand still while their memory is written, up to seconds each, instead of some milliseconds.'
  const cost = 'Domains stand still for the last of their memory, for some tens of milliseconds and more.'
  const ahead = (detail: string, how: string): Finding => ({ ok: false, detail, cost: `${cost} ${how}` })
  const obstacle = libvirtObstacle(version)
  if (obstacle !== null) return { ok: false, detail: obstacle, cost: `${none} Use a newer libvirt.` }
  if (Number.parseInt(qemu, 10) < minimumQemu) return ahead(`QEMU ${qemu} is older than 6.0`, 'Use a newer QEMU.')
  const who = user === null ? 'a user of its own' : user === 0 ? 'root' : `user ${user}`
  const good = (why: string): Finding => ({ ok: true, detail: `domains are saved while they run: ${why}`, cost: null })
  if (everyoneMayUseUserfaultfd()) return good(`QEMU runs as ${who}, and every user may use userfaultfd`)
  if (isAtLeast(version, userfaultfdDevice.libvirt) && Number.parseInt(qemu, 10) >= userfaultfdDevice.qemu)
    return good(`libvirt lets QEMU have /dev/userfaultfd`)
  if (user === 0 && keeps && driver === null) return good('QEMU runs as root and keeps its capabilities')
  // Neither AppArmor's profile nor SELinux's type for domains has CAP_SYS_PTRACE, which it takes.
  const withheld = keeps
    ? `kept from using its capabilities by ${driver}`
    : 'without its capabilities (clear_emulator_capabilities)'
  const lacks = user === 0 ? withheld : ''
  const detail = `QEMU runs as ${who}${lacks === '' ? '' : ` ${lacks}`} and may not use userfaultfd`
  return ahead(detail, `Here ${userfaultfdHint}.`)
}
