// A machine's type with its version. `q35`, `pc`, `virt` and no type at all mean the newest one that a QEMU knows, and
// a newer QEMU takes the memory of an older one's machine only under that one's name. Pure.

import { type Argument, joinArguments, optionValue, splitArguments } from '../shared/qemu-options.js'

const isMachine = ({ option }: Argument) => option === 'machine' || option === 'M'

/** The command line with the type named as the running QEMU does: `className` is that of its object `/machine`. */
export function withMachineType(argv: readonly string[], className: string): string[] {
  const type = className.replace(/-machine$/, '')
  const split = splitArguments(argv)
  const named = split.findLast((argument) => isMachine(argument) && optionValue(argument).get('type') !== null)
  if (named === undefined) return [argv[0]!, '-machine', type, ...argv.slice(1)]
  const edited = split.map((argument) => {
    if (argument !== named) return argument
    const value = optionValue(argument)
    value.set('type', type)
    return { ...argument, value: value.toString() }
  })
  return joinArguments(argv[0]!, edited)
}
