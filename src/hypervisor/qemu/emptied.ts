// Files that QEMU empties when it opens them: logs, recordings of frames and sound. The former incarnation has written
// to them, and may do so still: each incarnation has its own, in its directory. Pure.

import path from 'node:path'
import { type Argument, type OptionValue, optionValue } from '../shared/qemu-options.js'

/** The key of the file that an argument has QEMU empty, and what it is called; null when there is none. */
function emptied(option: string, value: OptionValue): { readonly key: string; readonly name: string } | null {
  const at = (key: string, otherwise: string | null) => {
    const file = value.get(key) ?? otherwise
    return file === null ? null : { key, name: path.basename(file) }
  }
  switch (option) {
    case 'trace':
      return at('file', null)
    case 'object':
      // The name that its owner gave to the file may be that of another filter's, in another directory.
      if (value.get('qom-type') !== 'filter-dump') return null
      return { key: 'file', name: `${value.get('id') ?? 'filter'}.pcap` }
    case 'audiodev':
    case 'audio':
      return value.get('driver') === 'wav' ? at('path', 'qemu.wav') : null
    default:
      return null
  }
}

/** The argument with a file of this incarnation's own. */
export function withOwnFile(argument: Argument, directory: string): Argument {
  if (argument.option === 'D') return { ...argument, value: path.join(directory, path.basename(argument.value ?? '')) }
  const value = optionValue(argument)
  const found = emptied(argument.option, value)
  if (found === null) return argument
  value.set(found.key, path.join(directory, found.name))
  return { ...argument, value: value.toString() }
}
