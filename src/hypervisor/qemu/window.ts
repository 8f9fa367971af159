// A machine that shows itself in a window, or on a terminal. A daemon has neither, and such a QEMU ends at once where
// it finds none: restored, it shows itself on a VNC socket. What shows a machine is no part of its saved state. Pure.

import { type Argument, optionValue } from '../shared/qemu-options.js'

/** Of -display, and of QEMU's answer to `query-display-options`. */
const windows = new Set(['gtk', 'sdl', 'curses', 'cocoa', 'spice-app', 'dbus'])

/** Whether QEMU has a window, which it also opens where its command line says nothing of displays. */
export const isWindow = (display: string | null): boolean => display !== null && windows.has(display)

const opensWindow = (argument: Argument): boolean =>
  windows.has(argument.option) || (argument.option === 'display' && isWindow(optionValue(argument).get('type')))

/** `hasWindow`: whatever the command line says. */
export function withoutWindow(split: readonly Argument[], hasWindow: boolean, socket: string): readonly Argument[] {
  const kept = split.filter((argument) => !opensWindow(argument))
  if (!hasWindow && kept.length === split.length) return split
  const isSeen = kept.some(({ option }) => option === 'vnc' || option === 'spice')
  const vnc: Argument = { option: 'vnc', value: `unix:${socket.replaceAll(',', ',,')}`, index: 0 }
  return [...kept, { option: 'display', value: 'none', index: 0 }, ...(isSeen ? [] : [vnc])]
}
