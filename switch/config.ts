// The switch daemon's configuration: one YAML file, checked whole before anything is touched.

import { existsSync } from 'node:fs'
import { hostname } from 'node:os'
import { type Static, Type } from '@sinclair/typebox'
import { type ConfigFile, loadConfigFile, parseConfig } from '../src/api/config-file.js'
import { AbsolutePath, Name, PortKind, type PortRules, portRules } from '../src/api/schemas.js'
import { readPlainSync, UnfitFile } from '../src/files/plain.js'
import { addresses, hostOptions, keys } from '../src/hypervisor/drivers.js'
import { hostName } from '../src/runtime/host-name.js'
import { MAX_PORTS } from './forwarding/counters.js'
import { rulesFault } from './forwarding/port-rules.js'
import { parseEndpoint } from './metrics/listener.js'

const closed = { additionalProperties: false } as const
const DeviceName = Type.String({
  minLength: 1,
  maxLength: 127,
  pattern: '^[^/\\s]+$',
  description: 'a network device name, or another name that the device has (altname)',
})
const MIN_KEY_BYTES = 16
const MAX_KEY_BYTES = 4096

const Bounds = (frames: number, bytes: number) =>
  Type.Object(
    {
      /** At most so many frames; what finds no room is dropped and counted. */
      frames: Type.Integer({ minimum: 1, maximum: 1_000_000, default: frames }),
      /** At most so many bytes of them. */
      bytes: Type.Integer({ minimum: 65536, maximum: 2 ** 31, default: bytes }),
    },
    { ...closed, default: {} },
  )

/**
 * How members' frames to other hosts are colored on an uplink: where the DSCP bit can say it by that, or all in
 * carriers.
 */
const UplinkColor = Type.Union([Type.Literal('dscp'), Type.Literal('carrier')])
export type UplinkColor = Static<typeof UplinkColor>

export const PortConfig = Type.Object(
  {
    /**
     * The network device that becomes the port: a TAP, a veth, a NIC; but for members also by another name that it has
     * (altname). It may come later.
     */
    device: DeviceName,
    /** Default: member when `vm` is given, else plain. */
    kind: Type.Optional(PortKind),
    /** The machine that this port belongs to; a key of `machines`, unless the machine is only ever forwarded. */
    vm: Type.Optional(Name),
    /** Of an uplink; default: dscp. `carrier` for LANs that rewrite DSCPs. */
    color: Type.Optional(UplinkColor),
    ...portRules,
  },
  closed,
)
export type PortConfig = Static<typeof PortConfig>

export const NetworkConfig = Type.Object(
  {
    /** Its ports, by name; a name is unique on its host. */
    ports: Type.Record(Name, PortConfig, { ...closed, default: {} }),
    /**
     * A bridge of the kernel that is taken over whenever it is there: its ports are ports of this network, and so is
     * the host, by its address on the bridge.
     */
    bridge: Type.Optional(DeviceName),
    /** The bridge's port that leads to a LAN with peer switches: a port of kind uplink. */
    uplink: Type.Optional(DeviceName),
    /** The bridge is taken over though packet filters between its ports are passed by. */
    ignoreFilters: Type.Boolean({ default: false }),
    /**
     * 01-80-C2-00-00-00 to -0F but for PAUSE (STP, LACP, 802.1X, LLDP): a transparent wire forwards them. An 802.1D
     * bridge does not, and the kernel's only what its group_fwd_mask says, and STP while it does no STP itself.
     * Default: forward; of a network that is a `bridge:`, as that does.
     */
    linkLocal: Type.Optional(Type.Union([Type.Literal('forward'), Type.Literal('drop')])),
    /**
     * PAUSE frames, 01-80-C2-00-00-01: they stop the sender at the other end of one cable, and whoever gets a forwarded
     * one stops for somebody else's sake. The kernel's bridge drops them, and no setting of its changes that.
     */
    pause: Type.Union([Type.Literal('drop'), Type.Literal('forward')], { default: 'drop' }),
    /** Forward from trunk to trunk. Only where the trunks form a tree. */
    transit: Type.Boolean({ default: false }),
    /**
     * Seconds after which a learned address that was not seen is forgotten. Default: 300; of a network that is a
     * `bridge:`, as long as that remembers it.
     */
    ageing: Type.Optional(Type.Integer({ minimum: 10, maximum: 1_000_000 })),
    /** Bounds per port of frames held while a snapshot is taken. */
    hold: Bounds(16384, 64 * 1024 * 1024),
    /** The same, of all ports together. */
    networkHold: Bounds(131_072, 512 * 1024 * 1024),
    /** Bounds of one snapshot's channel state on this host. */
    record: Bounds(65536, 256 * 1024 * 1024),
    /** Milliseconds from a peer's marker until what it sent and did not come counts as lost. */
    closureDeadline: Type.Integer({ minimum: 10, maximum: 60_000, default: 200 }),
    /**
     * A file with the key that all switches of the network share: control frames between them are authenticated with
     * it.
     */
    controlKey: Type.Optional(AbsolutePath),
  },
  closed,
)
export type NetworkConfig = Static<typeof NetworkConfig>

/** How a machine is reached: by one of the drivers. */
export const MachineConfig = Type.Object(addresses, closed)

export const HostConfig = Type.Object(
  {
    /** The socket of its switch daemon, as it is reached from here. */
    socket: AbsolutePath,
  },
  closed,
)

export const SwitchConfig = Type.Object(
  {
    /** This host's name, unique among its peers. Default: as the kernel calls it (`uname -n`). */
    host: Type.Optional(Name),
    /** Where the daemon's API listens: `socket`, a path. */
    api: Type.Object({ socket: AbsolutePath }, { ...closed, default: { socket: '/run/snapswitch/switch.sock' } }),
    /** Where snapshots, overlays of restored machines and what must outlive the daemon are kept. */
    state: Type.String({ ...AbsolutePath, default: '/var/lib/snapswitch' }),
    /** Its networks, by name: one L2 domain each. */
    networks: Type.Record(Name, NetworkConfig, { ...closed, default: {} }),
    /** The machines of its member ports, by name. */
    machines: Type.Record(Name, MachineConfig, { ...closed, default: {} }),
    /**
     * `embedded`: this daemon runs the coordinator, in a process of its own, with its store in the state directory; it
     * makes way for one that is started by itself. `none`, or the socket of another one: this daemon runs none.
     */
    coordinator: Type.String({ pattern: '^(embedded|none|/.+)$', default: 'embedded' }),
    /** Other hosts of its networks, for the coordinator inside this daemon, by their names. */
    hosts: Type.Record(Name, HostConfig, { ...closed, default: {} }),
    /**
     * How its machines’ memory is saved at best. `background`: behind the guest, which stands still for milliseconds
     * and runs slower while it is saved. `precopy`: most of it before the cut; the guest stands still for the rest,
     * some tens of milliseconds, and is slowed down less. Where QEMU cannot save in the background, `precopy` is done.
     */
    memory: Type.Union([Type.Literal('background'), Type.Literal('precopy')], { default: 'background' }),
    ...hostOptions,
    /** Prometheus reads `GET /metrics` of the API socket; with this, TCP, too. */
    metrics: Type.Optional(
      Type.Object(
        {
          /** An address and port of the loopback, such as 127.0.0.1:9475. */
          listen: Type.String({ maxLength: 64 }),
        },
        closed,
      ),
    ),
    datapath: Type.Object(
      {
        /** How the datapath waits for frames: `busy` never sleeps and keeps a core. */
        poll: Type.Union([Type.Literal('adaptive'), Type.Literal('busy'), Type.Literal('sleep')], {
          default: 'adaptive',
        }),
        /** Microseconds that `adaptive` looks for more frames before it sleeps. */
        spin: Type.Integer({ minimum: 0, maximum: 10_000, default: 25 }),
        /**
         * `auto`: what the switch has decided of a pair of addresses, the kernel repeats, while the network is quiet,
         * where the machine can. `off`: every frame goes through the daemon.
         */
        fastPath: Type.Union([Type.Literal('auto'), Type.Literal('off')], { default: 'auto' }),
      },
      { ...closed, default: {} },
    ),
    /** The least level that is logged. */
    log: Type.Union(
      ['trace', 'debug', 'info', 'warn', 'error', 'silent'].map((level) => Type.Literal(level)),
      { default: 'info' },
    ),
  },
  closed,
)
type SwitchFile = Static<typeof SwitchConfig>
export type SwitchConfig = SwitchFile & { readonly host: string }

/** Each is a copy of every frame that it mirrors. */
const MOST_MIRRORS = 8

/** Where the configuration is when nobody says. */
export const USUAL_FILE = '/etc/snapswitch/switch.yaml'

/**
 * `file` null: the usual one when there is one, else defaults alone. Throws CONFIG_UNREADABLE or CONFIG_INVALID with
 * file, line and column.
 */
export function loadSwitchConfig(file: string | null): SwitchConfig {
  const path = file ?? (existsSync(USUAL_FILE) ? USUAL_FILE : null)
  const config =
    path === null ? parseConfig('{}', 'no configuration', SwitchConfig) : loadConfigFile(path, SwitchConfig)
  checkPorts(config)
  checkBridges(config)
  checkMachines(config)
  checkKeys(config)
  checkMetrics(config)
  const { host } = config.value
  const named = { ...config.value, host: host ?? nameOfHost(config) }
  if (named.host in named.hosts) throw config.fault(['hosts', named.host], 'that is this host itself')
  return named
}

function nameOfHost(config: ConfigFile<SwitchFile>): string {
  const name = hostName()
  if (name !== null) return name
  throw config.fault(
    ['host'],
    `this host is called ${JSON.stringify(hostname())}, which is no name for it: give \`host:\``,
  )
}

/**
 * A key is read twice, here to say where in the file it is wrong; it is never part of the configuration, which may be
 * logged.
 */
function checkKeys(config: ConfigFile<SwitchFile>): void {
  for (const [name, { controlKey }] of Object.entries(config.value.networks)) {
    if (controlKey === undefined) continue
    const key = readControlKey(controlKey)
    if (typeof key === 'string') throw config.fault(['networks', name, 'controlKey'], key)
  }
}

/** The key in a file, without a newline at its end, or what is wrong with the file. */
export function readControlKey(file: string): Uint8Array | string {
  try {
    const { bytes, stat } = readPlainSync(file, MAX_KEY_BYTES)
    if ((stat.mode & 0o006) !== 0) return `everybody may read or change the key in ${file}: chmod 600 it`
    const key = bytes.subarray(0, bytes.at(-1) === 0x0a ? -1 : bytes.length)
    return key.length < MIN_KEY_BYTES
      ? `the key in ${file} has ${key.length} bytes and needs ${MIN_KEY_BYTES}: openssl rand -hex 32 makes one`
      : Uint8Array.from(key)
  } catch (error) {
    if (error instanceof UnfitFile) return `${error.message}: give a file with a key`
    return `cannot read ${file}: ${(error as NodeJS.ErrnoException).code ?? String(error)}`
  }
}

function checkMetrics(config: ConfigFile<SwitchFile>): void {
  const { metrics } = config.value
  const endpoint = metrics === undefined ? null : parseEndpoint(metrics.listen)
  if (typeof endpoint === 'string') throw config.fault(['metrics', 'listen'], endpoint)
}

function checkMachines(config: ConfigFile<SwitchFile>): void {
  for (const [name, spec] of Object.entries(config.value.machines)) {
    if (Object.keys(spec).length === 1) continue
    throw config.fault(['machines', name], `a machine has one of ${keys.map((key) => `\`${key}:\``).join(', ')}`)
  }
}

/** What a schema cannot say: two ports of one name or device, a member without a machine, a trunk with one. */
function checkPorts(config: ConfigFile<SwitchFile>): void {
  const devices = new Map<string, string>()
  /** Ports are asked for by their names alone: a host has each once. */
  const networkOf = new Map<string, string>()
  for (const [network, { ports }] of Object.entries(config.value.networks)) {
    for (const [name, port] of Object.entries(ports)) {
      const path = ['networks', network, 'ports', name]
      const before = networkOf.get(name)
      if (before !== undefined) throw config.fault(path, `network ${before} of this host has a port ${name} already`)
      networkOf.set(name, network)
      const other = devices.get(port.device)
      if (other !== undefined) throw config.fault([...path, 'device'], `device ${port.device} is already port ${other}`)
      devices.set(port.device, name)
      if (port.kind === 'member' && port.vm === undefined) throw config.fault(path, 'a member port needs `vm:`')
      if (port.kind !== undefined && port.kind !== 'member' && port.vm !== undefined) {
        throw config.fault([...path, 'vm'], `a ${port.kind} port has no \`vm:\``)
      }
      if (port.color !== undefined && port.kind !== 'uplink') {
        throw config.fault([...path, 'color'], 'only a port of kind uplink has `color:`')
      }
      if (port.kind === 'uplink') checkAlone(config, network, name)
      const fault = rulesFault(rulesOf(port), port.kind ?? (port.vm === undefined ? 'plain' : 'member'))
      if (fault !== null) throw config.fault([...path, ...fault.path], fault.message)
      checkMirror(config, network, name)
      if (networkOf.size > MAX_PORTS) throw config.fault(path, `more than ${MAX_PORTS} ports`)
    }
  }
}

/** Ports of a bridge are not known here: any name may be one of theirs. */
function checkMirror(config: ConfigFile<SwitchFile>, network: string, name: string): void {
  const { ports, bridge } = config.value.networks[network]!
  const path = ['networks', network, 'ports', name, 'mirror']
  const mirrors = Object.values(ports).filter(({ mirror }) => mirror !== undefined)
  if (mirrors.length > MOST_MIRRORS) throw config.fault(['networks', network], `more than ${MOST_MIRRORS} mirrors`)
  for (const [at, one] of (ports[name]!.mirror?.of ?? []).entries()) {
    const port = ports[one]
    if (port === undefined && bridge === undefined)
      throw config.fault([...path, 'of', at], `network ${network} has no port ${one}`)
    if (port?.mirror !== undefined) throw config.fault([...path, 'of', at], `port ${one} is a mirror itself`)
  }
}

/** What a port of the configuration lets in and out. */
export function rulesOf(port: PortConfig): PortRules {
  const found = Object.keys(portRules).flatMap((key) => {
    const value = port[key as keyof PortRules]
    return value === undefined ? [] : [[key, value]]
  })
  return Object.fromEntries(found)
}

function checkBridges(config: ConfigFile<SwitchFile>): void {
  const networkOf = new Map<string, string>()
  for (const [name, { bridge, uplink, ports }] of Object.entries(config.value.networks)) {
    const path = ['networks', name]
    if (bridge === undefined) {
      if (uplink !== undefined) throw config.fault([...path, 'uplink'], '`uplink:` names a port of a `bridge:`')
      continue
    }
    const other = networkOf.get(bridge)
    if (other !== undefined) throw config.fault([...path, 'bridge'], `${bridge} is network ${other} already`)
    networkOf.set(bridge, name)
    const way = Object.entries(ports).find(([, { kind }]) => kind === 'uplink' || kind === 'trunk')
    if (uplink === undefined || way === undefined) continue
    const message = `a network has one uplink or trunks, and ${way[0]} is a port of kind ${way[1].kind}`
    throw config.fault([...path, 'uplink'], message)
  }
}

/** Two ways to the same hosts would be a loop. */
function checkAlone(config: ConfigFile<SwitchFile>, network: string, uplink: string): void {
  for (const [name, { kind }] of Object.entries(config.value.networks[network].ports)) {
    if (name === uplink || (kind !== 'uplink' && kind !== 'trunk')) continue
    const path = ['networks', network, 'ports', uplink, 'kind']
    throw config.fault(path, `a network has one uplink or trunks, and ${name} is a port of kind ${kind}`)
  }
}
