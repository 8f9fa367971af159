// What a machine consisted of when it was looked at, and whether that was so at its cut, too. What a restore starts
// from is read before the preparation, which may take seconds and waits for all other hosts. A device that is plugged
// in after that is in the image and in no definition: QEMU refuses such an image. A disc that is changed is not the one
// that the snapshot names.
//
// It is asked once the guest runs again: that costs nothing while it stands still. QEMU plugs nothing in, and takes
// nothing out that it is told to, while it saves (qdev-monitor.c, "not allowed while migrating").

import { SnapswitchError } from '../../errors/errors.js'
import type { Deadline } from '../hypervisor.js'
import type { Qmp } from './qmp.js'
import { isObject } from './qmp-messages.js'

const places = ['/machine/peripheral', '/machine/peripheral-anon']

/** Name and type of each device that -device or device_add made: names are used again where there is no id. */
async function devicesIn(qmp: Qmp, deadline: Deadline): Promise<readonly string[]> {
  const answers = await Promise.all(
    qmp.executeAll(
      places.map((path) => ['qom-list', { path }]),
      deadline,
    ),
  )
  return answers.flatMap((answer) =>
    (Array.isArray(answer) ? answer.filter(isObject) : []).flatMap(({ name, type }) => {
      const match = /^child<(.*)>$/.exec(String(type))
      return match === null ? [] : [`${String(name)} (${match[1]})`]
    }),
  )
}

export class Composition {
  readonly #qmp: Qmp
  /** Null: nobody has looked. */
  #devices: readonly string[] | null = null
  /** When a tray moved first since the look. A floppy drive has none. */
  #trayMovedAtUs: number | null = null

  constructor(qmp: Qmp) {
    this.#qmp = qmp
    qmp.onEvent(({ name, atUs }) => {
      if (name === 'DEVICE_TRAY_MOVED') this.#trayMovedAtUs ??= atUs
    })
  }

  /** Media are about to be looked at. */
  beforeMedia(): void {
    this.#trayMovedAtUs = null
  }

  /** Devices are about to be looked at. */
  async beforeDevices(deadline: Deadline): Promise<void> {
    this.#devices = await devicesIn(this.#qmp, deadline)
  }

  /** Throws CAPTURE_FAILED when the machine was another at its cut than when it was looked at. */
  async check(machine: string, pausedAtUs: number, deadline: Deadline): Promise<void> {
    const before = this.#devices
    const now = before === null ? null : await devicesIn(this.#qmp, deadline)
    const plugged = now?.find((device) => !before!.includes(device))
    const unplugged = before?.find((device) => !now!.includes(device))
    if (plugged !== undefined) throw changed(`the device ${plugged} was plugged into ${machine}`)
    if (unplugged !== undefined) throw changed(`the device ${unplugged} was taken out of ${machine}`)
    if (this.#trayMovedAtUs !== null && this.#trayMovedAtUs <= pausedAtUs)
      throw changed(`a disc of ${machine} was changed or ejected`)
  }
}

const changed = (what: string) =>
  new SnapswitchError('CAPTURE_FAILED', `${what} while its snapshot was prepared`, 'Take the snapshot again.')
