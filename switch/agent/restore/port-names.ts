// Names of ports whose devices nobody has named (libvirt: vnet0, vnet1, … as domains start; the kernel: tap0). Such a
// name tells nothing of the machine: when the snapshot is restored, it may be another machine's. Then the port, and its
// device, get another one.

import type { MemberPart, PortRecord, RestoreRequest } from '../../../src/api/schemas.js'
import type { MachineDefinition } from '../../../src/hypervisor/hypervisor.js'
import type { Ports } from '../../ports/ports.js'
import { nicOn } from '../machines.js'

type PortsHost = { readonly ports: Pick<Ports, 'get' | 'hasDevice'> }

/** What is restored here, and what its ports were called in the snapshot. */
export interface NamedRequest {
  readonly request: RestoreRequest
  /** By port as it is called here; those that are called as they were are left out. */
  readonly formerNames: ReadonlyMap<string, string>
}

export function withFreeNames(host: PortsHost, request: RestoreRequest): NamedRequest {
  const all = request.members.flatMap(({ ports }) => ports.map(({ name }) => name))
  const used = new Set(all)
  const formerNames = new Map<string, string>()
  const members = request.members.map((part) => {
    const names = new Map<string, string>()
    for (const port of part.ports) {
      if (!isMadeUp(part, port) || !isInUse(host, part.vm, port)) continue
      const name = freeName(host, port.name, used)
      used.add(name)
      names.set(port.name, name)
      formerNames.set(name, port.name)
    }
    return names.size === 0 ? part : renamed(part, names)
  })
  return { request: { ...request, members }, formerNames }
}

/** A port that a bridge has is called as its device. Others have names from a configuration. */
const isMadeUp = ({ definition }: MemberPart, { name, device }: PortRecord) =>
  name === device && nicOn(definition as MachineDefinition, device)?.isMadeUp === true

/** A device of that name is the machine's own, or another's. */
function isInUse({ ports }: PortsHost, vm: string, { name, device }: PortRecord): boolean {
  const there = ports.get(name)
  return there === undefined ? ports.hasDevice(device) : there.vm !== vm
}

function freeName({ ports }: PortsHost, name: string, used: ReadonlySet<string>): string {
  const stem = name.replace(/\d+$/, '')
  for (let number = 0; ; number++) {
    const other = `${stem}${number}`
    if (!used.has(other) && ports.get(other) === undefined && !ports.hasDevice(other)) return other
  }
}

function renamed(part: MemberPart, names: ReadonlyMap<string, string>): MemberPart {
  const definition = part.definition as MachineDefinition
  const rename = <T extends { readonly device: string }>(one: T): T => ({
    ...one,
    device: names.get(one.device) ?? one.device,
  })
  return {
    ...part,
    ports: part.ports.map((port) => rename({ ...port, name: names.get(port.name) ?? port.name })),
    definition: {
      ...definition,
      nics: definition.nics.map(rename),
      ...(definition.bridgedNics === undefined ? {} : { bridgedNics: definition.bridgedNics.map(rename) }),
    },
  }
}
