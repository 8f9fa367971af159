// The command line for trying whether an image loads: the machine as it was saved, but deaf and mute, so that it
// disturbs neither its running self nor anybody that it talks to. It starts in a network namespace of its own, where
// QEMU makes its taps. Pure.

import { type Argument, optionValue } from '../shared/qemu-options.js'

/** What shows itself, or what is written down, to people. */
const dropped = new Set(['vnc', 'display', 'D', 'd', 'trace', 'qmp', 'qmp-pretty', 's', 'gdb', 'plugin'])
const oldCharacterDevices = new Set(['serial', 'monitor', 'parallel', 'debugcon'])

/** A character device has no saved state: one that leads nowhere takes any one's place. */
function silent(argument: Argument): Argument {
  const value = optionValue(argument)
  const mux = value.get('mux') === 'on' ? ',mux=on' : ''
  return { ...argument, value: `null,id=${(value.get('id') ?? '').replaceAll(',', ',,')}${mux}` }
}

export function forRehearsal(split: readonly Argument[]): Argument[] {
  const kept = split.flatMap((argument): Argument[] => {
    const { option, value } = argument
    if (dropped.has(option)) return []
    if (option === 'chardev') return [silent(argument)]
    if (oldCharacterDevices.has(option) && value !== null && !/^(chardev:|none$|vc)/.test(value))
      return [{ ...argument, value: 'null' }]
    return [argument]
  })
  return [...kept, { option: 'display', value: 'none', index: 0 }]
}
