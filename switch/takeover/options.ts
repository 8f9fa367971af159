// How a bridge is taken: as somebody asks for it, or as the configuration says.

export interface TakeOptions {
  readonly network?: string | undefined
  /** The port that leads to a LAN with peers on it. */
  readonly uplink?: string | undefined
  readonly ignoreFilters?: boolean | undefined
}
