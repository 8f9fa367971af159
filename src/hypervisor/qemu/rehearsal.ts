// The command line for trying whether an image loads: the machine as it was saved, but deaf and mute, so that it
// disturbs neither its running self nor anybody that it talks to. It starts in a network namespace of its own, where
// QEMU makes its taps. Pure.

import { type Argument, type OptionValue, optionValue } from '../shared/qemu-options.js'
import { oldCharacterDevices } from './beside.js'

/** Shown, or written down, to people. Without -spice a QXL card draws for itself (ui/spice-core.c). */
const dropped = new Set(['vnc', 'spice', 'display', 'D', 'd', 'trace', 'qmp', 'qmp-pretty', 's', 'gdb', 'plugin'])

/** A character device has no saved state: one that leads nowhere takes any one's place. */
function silent(argument: Argument): Argument {
  const value = optionValue(argument)
  const mux = value.get('mux') === 'on' ? ',mux=on' : ''
  return { ...argument, value: `null,id=${(value.get('id') ?? '').replaceAll(',', ',,')}${mux}` }
}

/** Sound that nobody hears: its backend has no saved state, and one of SPICE is none without -spice. */
function unheard(argument: Argument): Argument {
  return { ...argument, value: `none${pick(optionValue(argument), ['id', 'model'])}` }
}

/** Networks of sockets: others would be called by them, or the running self would lose its own. */
const ofSockets = new Set(['socket', 'stream', 'dgram', 'l2tpv3', 'vde'])
/** Hubs of -net have low numbers. */
const firstHub = 1000

/** A network backend of sockets has no saved state: a hub without others takes its place. */
function unplugged(argument: Argument): Argument[] {
  const value = optionValue(argument)
  const type = value.get('type') ?? ''
  if (type === 'user') {
    // Its namespace has no address to listen on. The guest's own connections are in the image.
    value.remove('hostfwd')
    return [{ ...argument, value: value.toString() }]
  }
  if (!ofSockets.has(type)) return [argument]
  // It is on a hub already.
  if (argument.option === 'net') return []
  return [{ ...argument, value: `hubport,hubid=${firstHub + argument.index}${pick(value, ['id', 'mac', 'model'])}` }]
}

/** These keys of a value, each after a comma. */
function pick(value: OptionValue, keys: readonly string[]): string {
  const kept = keys.flatMap((key) => {
    const text = value.get(key)
    return text === null ? [] : [`,${key}=${text.replaceAll(',', ',,')}`]
  })
  return kept.join('')
}

export function forRehearsal(split: readonly Argument[]): Argument[] {
  const kept = split.flatMap((argument): Argument[] => {
    const { option, value } = argument
    if (dropped.has(option)) return []
    if (option === 'chardev') return [silent(argument)]
    if (option === 'netdev' || option === 'nic' || option === 'net') return unplugged(argument)
    if (option === 'audiodev' || option === 'audio') return [unheard(argument)]
    if (oldCharacterDevices.has(option) && value !== null && !/^(chardev:|none$|vc)/.test(value))
      return [{ ...argument, value: 'null' }]
    return [argument]
  })
  return [...kept, { option: 'display', value: 'none', index: 0 }]
}
