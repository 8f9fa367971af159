// The coordinator inside `snapswitch switch`, as its process, the switch and commands know it: where it listens, by
// where the switch does.

const SWITCH = '/run/snapswitch/switch.sock'
const COORDINATOR = '/run/snapswitch/coordinator.sock'

/** Its exit code: another coordinator has the socket or the store, or wants them. */
export const SUPERSEDED = 75

/** The usual place beside the usual one; else beside the switch's own, since a host may have several. */
export function embeddedSocket(switchSocket: string): string {
  return switchSocket === SWITCH ? COORDINATOR : `${switchSocket.replace(/\.sock$/, '')}.coordinator.sock`
}

/** Which coordinator a switch's configuration means, and where it listens; null: none that is known. */
export function coordinatorOf(config: { readonly coordinator: string; readonly api: { readonly socket: string } }): {
  readonly embedded: boolean
  readonly socket: string
} | null {
  if (config.coordinator === 'none') return null
  return config.coordinator === 'embedded'
    ? { embedded: true, socket: embeddedSocket(config.api.socket) }
    : { embedded: false, socket: config.coordinator }
}
