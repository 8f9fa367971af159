// The command line for trying whether an image loads: the machine as it was saved, but deaf and mute, so that it
// disturbs neither its running self nor anybody that it talks to. It starts in a network namespace of its own, where
// QEMU makes its taps. Pure.

import { type Argument, optionValue } from '../shared/qemu-options.js'

/** Shown, or written down, to people. Without -spice a QXL card draws for itself (ui/spice-core.c). */
const dropped = new Set(['vnc', 'spice', 'display', 'D', 'd', 'trace', 'qmp', 'qmp-pretty', 's', 'gdb', 'plugin'])
const oldCharacterDevices = new Set(['serial', 'monitor', 'parallel', 'debugcon'])

/** A character device has no saved state: one that leads nowhere takes any one's place. */
function silent(argument: Argument): Argument {
  const value = optionValue(argument)
  const mux = value.get('mux') === 'on' ? ',mux=on' : ''
  return { ...argument, value: `null,id=${(value.get('id') ?? '').replaceAll(',', ',,')}${mux}` }
}

/** Sound that nobody hears: its backend has no saved state, and one of SPICE is none without -spice. */
function unheard(argument: Argument): Argument {
  const value = optionValue(argument)
  const kept = ['id', 'model'].flatMap((key) => {
    const text = value.get(key)
    return text === null ? [] : [`,${key}=${text.replaceAll(',', ',,')}`]
  })
  return { ...argument, value: `none${kept.join('')}` }
}

export function forRehearsal(split: readonly Argument[]): Argument[] {
  const kept = split.flatMap((argument): Argument[] => {
    const { option, value } = argument
    if (dropped.has(option)) return []
    if (option === 'chardev') return [silent(argument)]
    if (option === 'audiodev' || option === 'audio') return [unheard(argument)]
    if (oldCharacterDevices.has(option) && value !== null && !/^(chardev:|none$|vc)/.test(value))
      return [{ ...argument, value: 'null' }]
    return [argument]
  })
  return [...kept, { option: 'display', value: 'none', index: 0 }]
}
