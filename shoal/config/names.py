"""Other names of settings: Shoal's short ones, and those that other libraries use.

Short names are accepted. Other libraries' names are not, since their meaning may differ; the error
for one names the setting that is closest to it.
"""

from __future__ import annotations

SHORT = {  # accepted in Python, and as options of the command line
    "plan": "plan.name",
    "seed": "seed",
    "workers": "rollout.workers",
    "address": "cluster.address",
    "learner": "learner",
    "report_every": "report_every",
    "stop_return": "stop.return_mean",
    "stop_steps": "stop.env_steps",
    "stop_seconds": "stop.seconds",
    "evaluate_every": "evaluation.every",
    "evaluate_episodes": "evaluation.episodes",
    "video_every": "evaluation.video_every",
    "on_evaluation_error": "evaluation.on_error",
}
_OTHERS = {  # of Stable-Baselines3, RLlib, CleanRL, OpenAI baselines, Tianshou, TorchRL, Acme
    "algorithm.lr": "learning_rate step_size stepsize policy_lr q_lr actor_lr critic_lr "
    "lr_schedule",
    "algorithm.gamma": "discount discount_factor discount_rate",
    "algorithm.lambda_": "gae_lambda lam lmbda td_lambda trace_lambda",
    "algorithm.clip": "clip_range clip_coef clip_param clip_ratio clip_epsilon cliprange eps_clip",
    "algorithm.clip_value": "clip_range_vf vf_clip_param clip_vloss value_clip",
    "algorithm.clip_rho": "clip_rho_threshold vtrace_clip_rho_threshold rho_bar",
    "algorithm.clip_pg_rho": "clip_pg_rho_threshold vtrace_clip_pg_rho_threshold",
    "algorithm.clip_c": "c_bar",
    "algorithm.corrected": "vtrace",
    "algorithm.entropy_coef": "ent_coef entropy_coeff entropy_cost entropy_beta "
    "exploration_loss_coeff",
    "algorithm.value_coef": "vf_coef vf_loss_coeff value_loss_coef value_loss_coeff baseline_cost",
    "algorithm.kl_coef": "kl_coeff kl_beta kl_loss_coeff use_kl_loss",
    "algorithm.max_grad_norm": "grad_clip grad_norm clip_grad_norm gradient_clip max_gradient_norm",
    "algorithm.epochs": "n_epochs num_epochs update_epochs num_sgd_iter ppo_epochs noptepochs",
    "algorithm.minibatch_size": "sgd_minibatch_size mini_batch_size num_minibatches nminibatches",
    "algorithm.normalise_advantage": "normalize_advantage norm_adv advantage_normalization",
    "algorithm.target_kl": "kl_target kl_cutoff",
    "algorithm.baseline": "use_baseline",
    "algorithm.adam_eps": "adam_epsilon optimizer_epsilon",
    "algorithm.eps": "adam_epsilon optimizer_epsilon epsilon_adam",
    "algorithm.rmsprop_decay": "rms_prop_alpha decay",
    "algorithm.rmsprop_eps": "rms_prop_eps rmsprop_epsilon",
    "algorithm.rmsprop_momentum": "momentum",
    "algorithm.rule": "optimizer optimiser opt_type use_rms_prop",
    "algorithm.network": "policy_kwargs model_config model policy_net",
    "algorithm.network.hidden": "net_arch hidden_sizes hidden_layers fcnet_hiddens hidden_dim "
    "layers",
    "algorithm.network.activation": "activation_fn activation_function fcnet_activation",
    "algorithm.network.shared": "vf_share_layers share_features_extractor "
    "actor_critic_share_weights",
    "algorithm.network.encoder": "features_extractor_class conv_filters cnn",
    "algorithm.n_step": "nstep n_steps_return multi_step estimation_step",
    "algorithm.double": "double_q double_dqn is_double",
    "algorithm.dueling": "dueling_dqn is_dueling",
    "algorithm.atoms": "num_atoms n_atoms",
    "algorithm.v_min": "vmin v_low",
    "algorithm.v_max": "vmax v_high",
    "algorithm.noisy": "noisy_net noisy_nets",
    "algorithm.sigma": "sigma0 noisy_std sigma_init delta_std noise_stdev noise_std nu",
    "algorithm.directions": "n_delta num_deltas num_directions n_directions pop_size "
    "population_size num_rollouts episodes_per_batch",
    "algorithm.top": "n_top deltas_used num_top_directions rollouts_used",
    "algorithm.survival_bonus": "alive_bonus_offset shift",
    "algorithm.l2": "l2coeff l2_coeff weight_decay",
    "algorithm.shaping": "return_proc_mode fitness_shaping",
    "algorithm.cap": "episode_cutoff_mode max_episode_length",
    "plan.table_size": "noise_size noise_table_size",
    "plan.evaluation_share": "eval_prob",
    "algorithm.epsilon_start": "exploration_initial_eps start_e initial_epsilon eps_start",
    "algorithm.epsilon": "exploration_final_eps end_e final_epsilon eps eps_end eps_train",
    "algorithm.epsilon_steps": "exploration_fraction epsilon_timesteps eps_decay epsilon_decay",
    "algorithm.target_every": "target_update_interval target_network_frequency target_update_freq "
    "target_network_update_freq target_update_period",
    "algorithm.tau": "polyak target_tau polyak_tau",
    "algorithm.policy_every": "policy_delay policy_frequency policy_freq update_actor_freq",
    "algorithm.policy_rate": "actor_learning_rate",
    "algorithm.critics": "n_critics num_critics twin_q",
    "algorithm.noise": "action_noise exploration_noise expl_noise",
    "algorithm.target_noise": "target_policy_noise policy_noise",
    "algorithm.target_clip": "target_noise_clip noise_clip",
    "algorithm.random_steps": "random_timesteps start_steps start_timesteps",
    "algorithm.alpha": "ent_coef entropy_coef init_alpha initial_alpha temperature "
    "init_temperature",
    "algorithm.tune_alpha": "autotune auto_alpha automatic_entropy_tuning",
    "algorithm.chunk": "max_seq_len recurrence recurrent_chunk_length bptt_length seq_len",
    "algorithm.network.memory": "use_lstm use_rnn recurrent rnn_type rnn",
    "algorithm.network.memory_size": "lstm_cell_size lstm_hidden_size rnn_size rnn_hidden_size",
    "algorithm.critic": "qf critic_network q_model_config",
    "rollout.workers": "num_workers num_env_runners num_rollout_workers n_workers num_actors",
    "rollout.envs_per_worker": "num_envs n_envs nenvs num_envs_per_worker num_envs_per_env_runner",
    "rollout.fragment_length": "n_steps num_steps nsteps rollout_fragment_length unroll_length "
    "horizon train_freq rollout rollout_length",
    "rollout.normalise_obs": "normalize_obs norm_obs normalize_input observation_filter",
    "rollout.scale_reward": "scale_rewards normalize_reward normalize_rewards norm_reward "
    "reward_scale",
    "rollout.clip_reward": "clip_rewards reward_clip reward_clipping",
    "rollout.env_kwargs": "env_config env_args environment_kwargs",
    "replay.capacity": "buffer_size max_replay_size replay_buffer_config replay_size",
    "replay.batch_size": "train_batch_size minibatch_size",
    "replay.replay_ratio": "gradient_steps utd_ratio training_intensity samples_per_insert "
    "train_frequency",
    "replay.warmup": "learning_starts min_replay_size min_buffer_size prefill "
    "num_steps_sampled_before_learning_starts",
    "replay.alpha": "prioritized_replay_alpha per_alpha priority_exponent",
    "replay.beta": "prioritized_replay_beta per_beta importance_sampling_exponent",
    "plan.max_lag": "max_policy_lag max_requests_in_flight",
    "plan.in_flight": "max_requests_in_flight_per_env_runner",
    "plan.shards": "num_replay_buffer_shards num_shards",
    "cluster.address": "ray_address",
    "cluster.cpus_per_worker": "num_cpus_per_worker num_cpus_per_env_runner",
    "cluster.in_process": "local_mode",
    "stop.return_mean": "episode_reward_mean episode_return_mean target_return reward_threshold",
    "stop.env_steps": "total_timesteps timesteps total_steps num_timesteps num_env_steps max_steps "
    "max_timesteps timesteps_total train_for_env_steps",
    "stop.seconds": "time_total_s max_time train_for_seconds time_limit",
    "evaluation.every": "evaluation_interval eval_freq eval_interval eval_every evaluate_freq",
    "evaluation.episodes": "n_eval_episodes num_eval_episodes evaluation_duration "
    "evaluation_num_episodes num_evaluation_episodes",
    "evaluation.video_every": "record_video_freq capture_video video_freq video_interval",
    "checkpointing.every_seconds": "save_every_sec save_interval",
    "checkpointing.every_iterations": "checkpoint_freq checkpoint_frequency save_freq",
    "checkpointing.keep": "num_to_keep keep_checkpoints keep_checkpoints_num",
    "report_every": "log_interval log_every log_freq report_interval logger_interval",
    "learner": "framework backend",
    "precision": "dtype mixed_precision",
    "device": "num_gpus num_gpus_per_learner gpu accelerator",
    "seed": "random_seed",
    "env": "env_id env_name environment",
    "system": "algo algorithm agent",
}
OTHERS: dict[str, list[str]] = {}  # another library's name -> the settings it may stand for
for _path, _names in _OTHERS.items():
    for _name in _names.split():
        OTHERS.setdefault(_name, []).append(_path)
