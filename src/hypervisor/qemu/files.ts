// Files that a command line names besides disks: kernel, initrd, firmware and the like. A restore finds them by
// content, so that the other host needs them neither at the same path nor at all. Pure.

import path from 'node:path'
import type { ExternalFile } from '../hypervisor.js'
import { type Argument, OptionValue, optionValue, splitArguments } from '../shared/qemu-options.js'

/** Options whose whole value is a file's name. */
const whole: Readonly<Record<string, string>> = { kernel: 'kernel', initrd: 'initrd', dtb: 'dtb', bios: 'firmware' }

/** Options with a file under some keys of theirs; the first word without a key goes by `implied`. */
const keyed: Readonly<
  Record<string, { readonly role: string; readonly keys: readonly string[]; readonly implied?: string }>
> = {
  'option-rom': { role: 'option ROM', keys: ['romfile', 'file'], implied: 'romfile' },
  fw_cfg: { role: 'fw_cfg', keys: ['file'], implied: 'name' },
  smbios: { role: 'SMBIOS table', keys: ['file'] },
  boot: { role: 'boot picture', keys: ['splash'] },
}

/** Of -device: an option ROM, or what the generic loader loads. */
const deviceFile = (value: OptionValue): { key: string; role: string } | null => {
  if (value.get('driver') === 'loader') return { key: 'file', role: 'loaded file' }
  return value.get('romfile') === null ? null : { key: 'romfile', role: 'option ROM' }
}

interface Place {
  readonly role: string
  /** As it stands there. */
  readonly name: string
  /** The same argument with another file. */
  readonly replace: (file: string) => Argument
}

function placesIn(argument: Argument): Place[] {
  const { option, value } = argument
  if (value === null || value === '') return []
  const role = whole[option]
  if (role !== undefined) return [{ role, name: value, replace: (file) => ({ ...argument, value: file }) }]
  if (option === 'acpitable') return tablesIn(argument, value)
  const set =
    keyed[option] !== undefined ? new OptionValue(value, keyed[option]!.implied ?? null) : optionValue(argument)
  const found =
    option === 'device'
      ? [deviceFile(set)]
      : (keyed[option]?.keys ?? []).map((key) => ({ key, role: keyed[option]!.role }))
  return found.flatMap((one) => {
    const name = one === null ? null : set.get(one.key)
    if (one === null || name === null || name === '') return []
    const replace = (file: string) => {
      set.set(one.key, file)
      return { ...argument, value: set.toString() }
    }
    return [{ role: one.role, name, replace }]
  })
}

/** -acpitable file=ONE:ANOTHER. */
function tablesIn(argument: Argument, text: string): Place[] {
  const value = new OptionValue(text, null)
  const key = value.get('file') === null ? 'data' : 'file'
  const names = value.get(key)?.split(':') ?? []
  return names.map((name, nth) => ({
    role: 'ACPI table',
    name,
    replace: (file) => {
      names[nth] = file
      value.set(key, names.join(':'))
      return { ...argument, value: value.toString() }
    },
  }))
}

/** QEMU looks for these in its own directories when there is no such file (qemu_find_file). */
const mayBeBuiltIn = new Set(['firmware', 'option ROM', 'boot picture', 'ACPI table'])

/** All of them, as absolute paths; QEMU's own are left out. `exists`: whether there is such a file. */
export function externalFiles(
  argv: readonly string[],
  directory: string,
  exists: (file: string) => boolean,
): ExternalFile[] {
  return splitArguments(argv)
    .flatMap(placesIn)
    .map(({ role, name }) => ({ role, path: path.resolve(directory, name) }))
    .filter(({ role, path: file }) => !mayBeBuiltIn.has(role) || exists(file))
}

/** The argument with the files where they lie here. `here`: by the path that `externalFiles` gave. */
export function withFiles(argument: Argument, directory: string, here: ReadonlyMap<string, string>): Argument {
  let edited = argument
  for (let nth = 0; nth < placesIn(argument).length; nth++) {
    const place = placesIn(edited)[nth]!
    const file = here.get(path.resolve(directory, place.name))
    if (file !== undefined && file !== place.name) edited = place.replace(file)
  }
  return edited
}
